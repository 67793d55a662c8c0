"""`autocoarse run`: all stages from one settings file."""

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from cli.console import Console, Stages, human_bytes
from cli.evaluate import evaluate
from cli.exit_codes import ExitCode
from cli.label import label
from cli.merge import merge
from cli.options import FILE, checked_table, json_option, read_tables
from cli.rounds import rounds
from cli.train import train
from cli.training_view import TrainingView

if TYPE_CHECKING:
    from pipeline.stages import RunProgress, RunResult
    from pipeline.stages_settings import RunSettings


@click.command()
@click.argument("file", metavar="SETTINGS.toml", type=FILE)
@json_option
def run(*, file: Path, as_json: bool) -> None:
    """Train a teacher, label, merge, train a student and evaluate both, as one file says.

    Tables: [run] with the data and out, [teacher], [label], [merge], [student], [evaluate]. Keys and values are those
    of the flags of train, label, merge and evaluate; paths are relative to the working directory. What is done is not
    done again: run the same command again to go on after a stop.
    """
    from pipeline.stages import run_stages

    console = Console(as_json=as_json)
    settings = read_run_settings(file)
    result = None
    with Stages() as stages:
        view = StagesView(console, stages)
        for progress in run_stages(settings):
            result = progress.result
            view.show(progress)
    assert result is not None, "the last progress has the result"
    _print_summary(result, console)
    console.say(f"in {settings.out}: summary.json, settings.toml, and a folder for each stage")
    summary = {**result.to_dict(), "skipped": list(result.skipped), "out": str(settings.out)}
    console.finish(summary)
    if result.failed:
        raise SystemExit(ExitCode.SOME_ITEMS_FAILED)


def read_run_settings(path: Path) -> "RunSettings":
    """Read the settings file of `run`.

    Raises:
        click.UsageError: it is no TOML, or a table or key is missing, unknown or of another type.
        SettingsError: a value is out of range, or contradicts another.
    """
    from pipeline.stages_settings import RunSettings

    tables = _tables()
    content = read_tables(path, tables)
    if "run" not in content:
        raise click.UsageError(f"{path}: there is no table [run], which says where the data are")
    return RunSettings.from_tables({name: _read(table, tables[name], path) for name, table in content.items()})


def _tables() -> dict[str, click.Command]:
    """What each table may hold: options of the commands, so that a key means and looks the same everywhere."""
    from pipeline.stages_settings import EvaluateStage, LabelStage, MergeStage, RunSettings, TrainingStage

    trained = _options(train, TrainingStage.model_fields)
    options = {
        "run": _options(rounds, RunSettings.model_fields.keys() - {"teacher"}),  # here it is a table
        "teacher": [*trained, *_options(evaluate, {"checkpoint"})],
        "label": _options(label, LabelStage.model_fields),
        "merge": _options(merge, MergeStage.model_fields),
        "student": trained,
        "evaluate": _options(evaluate, EvaluateStage.model_fields),
    }
    return {name: click.Command(name, params=parameters) for name, parameters in options.items()}


def _options(command: click.Command, names: Collection[str]) -> list[click.Parameter]:
    return [parameter for parameter in command.params if parameter.name in names]


def _read(table: dict[str, Any], options: click.Command, path: Path) -> dict[str, Any]:
    """The values of a table as its options give them; those that are not in it are left out."""
    given = checked_table(table, options, path)
    try:
        context = options.make_context(options.name, [], default_map=given)
    except click.UsageError as error:
        raise click.UsageError(f"{path}: [{options.name}]: {error.format_message()}") from error
    source = context.get_parameter_source
    return {name: value for name, value in context.params.items() if source(name) is ParameterSource.DEFAULT_MAP}


class StagesView:
    """Shows the progress of a run of stages.

    Args:
        console: where text goes.
        stages: where progress goes.
        plans: whether the plans of trainings are shown.
    """

    def __init__(self, console: Console, stages: Stages, *, plans: bool = True) -> None:
        self._console, self._stages, self._plans = console, stages, plans
        self._stage = ""
        self._training = TrainingView(console, stages, plans=plans)

    def show(self, progress: "RunProgress") -> None:
        """Show how far a stage is."""
        if progress.stage != self._stage:
            self._stage = progress.stage
            self._training = TrainingView(self._console, self._stages, plans=self._plans)
        if progress.warning:
            self._console.warn(f"{progress.stage}: {progress.warning}")
        if progress.training is not None:
            self._training.show(progress.training, f"{progress.stage}: ")
        elif progress.total:
            self._stages.show(progress.stage, progress.done, progress.total, unit=progress.unit)


def _print_summary(result: "RunResult", console: Console) -> None:
    if result.skipped:
        console.say(f"skipped, since their outputs are current: {', '.join(result.skipped)}")
    teacher, student = result.teacher.scores, result.student.scores
    width = max(len("mIoU"), *map(len, teacher.iou))
    console.say(f"\nIoU on {student.images} validation images, in %")
    console.say(f"{'':{width}}{'teacher':>10}{'student':>10}")
    console.say(f"{'mIoU':{width}}{_percent(teacher.miou):>10}{_percent(student.miou):>10}")
    for name, iou in teacher.iou.items():
        console.say(f"{name:{width}}{_percent(iou):>10}{_percent(student.iou[name]):>10}")
    console.say()
    for one in result.labels:
        failed = f", {one.failed} failed" if one.failed else ""
        console.say(
            f"{one.labels}: {one.counts.images} labels, {human_bytes(one.bytes)}, {_percent(one.counts.coverage)} % of "
            f"the pixels have a class{failed}"
        )


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}"
