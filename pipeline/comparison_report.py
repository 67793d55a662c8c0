"""What a comparison of label sets says: means, spreads and paired gains of its students, as JSON, Markdown and a plot.

Pure but for the drawing: it trains nothing and reads nothing. Gains are differences between students of the same seed,
so that what a seed does to both drops out.
"""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import Any

from pipeline.label_counts import LabelCounts
from pipeline.scores import Scores


@dataclass(frozen=True, slots=True)
class Student:
    """One finished training of a comparison."""

    name: str
    """Of its label set."""
    seed: int
    scores: Scores
    """On the validation images."""
    steps: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over seeds, each a share in [0, 1]."""

    mean: float
    deviation: float | None
    """Sample standard deviation; None of a single value."""
    values: dict[int, float]
    """By seed."""


@dataclass(frozen=True, slots=True)
class Gain:
    """Difference to the baseline over the seeds that both have; shares of 1."""

    mean: float
    """Of the differences by seed."""
    deviation: float | None
    """Sample standard deviation of the differences; None of a single one."""
    error: float | None
    """Standard error of the mean; None of a single difference."""
    seeds: int

    @property
    def is_clear(self) -> bool:
        """Whether it is further from nothing than twice its standard error; false where that is not known."""
        return self.error is not None and abs(self.mean) > 2 * self.error


@dataclass(frozen=True, slots=True)
class Row:
    """The students of one label set."""

    name: str
    miou: Spread
    iou: dict[str, Spread | None]
    """By class; None where neither truth nor prediction ever has it."""
    gain: Gain | None
    """In mIoU; None of the baseline itself, and while it has no seed in common with it."""
    gain_by_class: dict[str, Gain | None]
    steps: int
    seconds: float
    """Mean over the students."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A table of label sets."""

    baseline: str
    rows: tuple[Row, ...]
    """Of the sets that have a finished student, in the order in which the sets were given."""
    labels: dict[str, LabelCounts]
    """What each set's labels hold; "fine": the fine labels, otherwise those on the extra images."""
    kinds: dict[str, str]
    """Of each set's labels: fine, coarse or auto."""
    finished: int
    """Students, of `students`."""
    students: int

    @property
    def verdict(self) -> str:
        """What the gains are worth, in words."""
        return _verdict(self)

    def to_dict(self) -> dict[str, Any]:
        """All figures as plain values; shares are of 1."""
        content = asdict(self)
        for name, counts in self.labels.items():
            content["labels"][name] |= {"labelled": counts.labelled, "coverage": counts.coverage}
        return content | {"verdict": self.verdict}


def compare_students(
    students: Sequence[Student],
    labels: Mapping[str, LabelCounts],
    kinds: Mapping[str, str],
    baseline: str,
    expected: int,
) -> Comparison:
    """Put the finished students of a comparison into a table.

    Args:
        students: each name and seed at most once, in any order.
        labels: what each set's labels hold; its order is the table's.
        kinds: of each set's labels.
        baseline: the set that gains are computed against.
        expected: number of students when all are finished.

    Source: paired differences and the standard error of their mean as in Student, "The probable error of a mean",
        Biometrika 6 (1908).
    """
    by_set = {name: {s.seed: s for s in sorted(students, key=lambda s: s.seed) if s.name == name} for name in labels}
    rows = tuple(
        _row(name, found, by_set[baseline] if name != baseline else {}) for name, found in by_set.items() if found
    )
    return Comparison(baseline, rows, dict(labels), dict(kinds), len(students), expected)


def _row(name: str, found: Mapping[int, Student], baseline: Mapping[int, Student]) -> Row:
    last = list(found.values())[-1]
    miou = {seed: student.scores.miou for seed, student in found.items()}
    iou = {label: _by_seed(found, label) for label in last.scores.iou}
    return Row(
        name=name,
        miou=_spread(miou),
        iou={label: _spread(values) if values else None for label, values in iou.items()},
        gain=_gain(miou, {seed: student.scores.miou for seed, student in baseline.items()}),
        gain_by_class={label: _gain(values, _by_seed(baseline, label)) for label, values in iou.items()},
        steps=last.steps,
        seconds=fmean(student.seconds for student in found.values()),
    )


def _by_seed(students: Mapping[int, Student], label: str) -> dict[int, float]:
    found = {seed: student.scores.iou[label] for seed, student in students.items()}
    return {seed: value for seed, value in found.items() if value is not None}


def _spread(values: dict[int, float]) -> Spread:
    numbers = list(values.values())
    return Spread(fmean(numbers), stdev(numbers) if len(numbers) > 1 else None, values)


def _gain(values: Mapping[int, float], baseline: Mapping[int, float]) -> Gain | None:
    """Mean and standard error of the differences of the seeds that both have."""
    differences = [value - baseline[seed] for seed, value in values.items() if seed in baseline]
    if not differences:
        return None
    count = len(differences)
    deviation = stdev(differences) if count > 1 else None
    error = None if deviation is None else deviation / math.sqrt(count)
    return Gain(fmean(differences), deviation, error, count)


def _verdict(comparison: Comparison) -> str:
    from scipy.special import stdtrit  # not needed where no gain is judged

    gains = {row.name: row.gain for row in comparison.rows if row.gain is not None}
    if not gains:
        return f"No student can be compared with {comparison.baseline} yet."
    several = {name: gain for name, gain in gains.items() if gain.error is not None}
    if not several:
        return (
            "Each figure rests on one seed, which tells nothing of what chance does: other seeds may turn every "
            "difference round."
        )
    parts = []
    for name, gain in several.items():
        how = "more than" if gain.is_clear else "not more than"
        what = "gains" if gain.mean >= 0 else "loses"
        points, error = percent_text(abs(gain.mean)), percent_text(gain.error)
        parts.append(f"{name} {what} {points} points, {how} twice the standard error of {error}")
    seeds = min(gain.seeds for gain in several.values())
    factor = stdtrit(seeds - 1, 0.975)  # of Student's t, two-sided: what few seeds ask for instead of 1.96
    note = "" if factor < 2.1 else f" To be 95 % sure with {seeds} seeds, {factor:.1f} times is needed."
    return f"Against {comparison.baseline}, in mIoU: {'; '.join(parts)}.{note}"


def percent_text(share: float | None) -> str:
    """A share of 1 in percent; - for None."""
    return "-" if share is None else f"{100 * share:.2f}"


def gain_text(gain: Gain | None) -> str:
    """A gain in points, with its standard error where there is one; - for None."""
    if gain is None:
        return "-"
    return f"{100 * gain.mean:+.2f}" + ("" if gain.error is None else f" ± {percent_text(gain.error)}")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)


def comparison_markdown(comparison: Comparison) -> str:
    """The comparison as Markdown: the students, their IoU by class, and what their labels hold."""
    base = comparison.baseline
    summary = [
        (
            row.name,
            str(len(row.miou.values)),
            percent_text(row.miou.mean),
            percent_text(row.miou.deviation),
            ", ".join(map(percent_text, row.miou.values.values())),
            gain_text(row.gain),
            str(row.steps),
            f"{row.seconds:.0f}",
            percent_text(comparison.labels[row.name].coverage),
        )
        for row in comparison.rows
    ]
    head = ("trained on", "seeds", "mIoU", "deviation", "by seed", f"gain over {base}", "steps", "seconds", "coverage")
    classes = list(comparison.labels[base].by_class)
    by_class = [
        (label, *(f"{_mean(row.iou[label])} ({gain_text(row.gain_by_class[label])})" for row in comparison.rows))
        for label in classes
    ]
    sets = comparison.labels
    counted = [
        ("kind", *(comparison.kinds[name] for name in sets)),
        ("images with a label", *(f"{counts.images:,}" for counts in sets.values())),
        ("images without", *(f"{counts.images_without_label:,}" for counts in sets.values())),
        ("coverage, %", *(percent_text(counts.coverage) for counts in sets.values())),
        ("labelled pixels", *(f"{counts.labelled:,}" for counts in sets.values())),
        *((f"of them {label}", *(f"{counts.by_class[label]:,}" for counts in sets.values())) for label in classes),
    ]
    return (
        f"# Students by label set\n\n{comparison.verdict}\n\n"
        f"{comparison.finished} of {comparison.students} students are trained. Figures are in %, on the validation "
        f"images. The set fine is the fine labels alone; any other is the fine labels and the set's on the extra "
        f"images. The deviation is the seeds' (sample standard deviation); a gain is the mean of the differences "
        f"between students of the same seed ± its standard error. Both speak of the training seeds alone, not of "
        f"other teachers or other validation images.\n\n{_table(head, summary)}\n"
        f"## IoU by class, and gain over {base}\n\n"
        f"{_table(('class', *(row.name for row in comparison.rows)), by_class)}\n"
        f"## Labels\n\nOf the extra images; fine: of the fine images. Coverage is of the images that have a label.\n\n"
        f"{_table(('', *sets), counted)}"
    )


def _mean(spread: Spread | None) -> str:
    return percent_text(None if spread is None else spread.mean)


def comparison_plot(comparison: Comparison) -> bytes | None:
    """Draw the gains by class as horizontal bars, a group a class, with the seeds' spread.

    Returns:
        A PNG; None where no set can be compared with the baseline yet.
    """
    from matplotlib.figure import Figure  # heavy, and needed here alone

    rows = [row for row in comparison.rows if row.gain is not None]
    if not rows:
        return None
    labels = ["mIoU", *comparison.labels[comparison.baseline].by_class]
    thick = 0.8 / len(rows)
    figure = Figure(figsize=(9, 1.6 + len(labels) * max(0.32, 0.13 * len(rows))), layout="constrained")
    axes = figure.add_subplot()
    for number, row in enumerate(rows):
        gains = {"mIoU": row.gain, **row.gain_by_class}
        drawn = [(place, gain) for place, label in enumerate(labels) if (gain := gains[label]) is not None]
        axes.barh(
            [place - 0.4 + (number + 0.5) * thick for place, _ in drawn],
            [100 * gain.mean for _, gain in drawn],
            thick * 0.92,
            xerr=[100 * (gain.deviation or 0) for _, gain in drawn],
            error_kw={"elinewidth": 0.8, "capsize": min(2.5, 8 * thick), "ecolor": "#303236"},
            label=row.name,
        )
    axes.axvline(0, color="#303236", linewidth=0.8)
    axes.axhline(0.5, color="#ced0d4", linewidth=0.8)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)  # the first at the top
    axes.grid(axis="x", color="#ced0d4", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    seeds = sorted({gain.seeds for row in rows if (gain := row.gain) is not None})
    count = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    axes.set_xlabel(f"gain in IoU over {comparison.baseline}, points; seeds: {count}, whose deviation the lines show")
    figure.legend(loc="outside upper center", ncols=min(len(rows), 5), frameon=False)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=130)
    return content.getvalue()
