"""The commands `train` and `evaluate`."""

import json
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from cli.main import main
from cli.train import train
from cli.train_options import flags_win
from pipeline.training_settings import TrainSettings


def invoke(*arguments: str | Path) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture
def data(tmp_path: Path, make_image: Callable[..., object]) -> Path:
    """Three images of noise with labels of three classes, and those classes."""
    for prefix, numbers in (("", (0, 1, 2)), ("val_", (7, 8))):
        for number in numbers:
            make_image(tmp_path / f"{prefix}images/{number}.png", (40, 48), number)
            values = np.random.default_rng(number).choice(np.array([0, 1, 2, 255], np.uint8), (40, 48))
            (tmp_path / f"{prefix}labels").mkdir(exist_ok=True)
            Image.fromarray(values).save(tmp_path / f"{prefix}labels/{number}.png")
    classes = {"classes": [{"name": n} for n in ("road", "pole", "sky")]}
    (tmp_path / "classes.json").write_text(json.dumps(classes))
    return tmp_path


def training(data: Path) -> list[str | Path]:
    """A training run of two steps."""
    return [
        *("train", "--fine-images", data / "images", "--fine-labels", data / "labels"),
        *("--classes", data / "classes.json", "--encoder", "resnet10t", "--steps", "2", "--crop", "48x32"),
        *("--batch", "2", "--workers", "0", "--scales", "1", "--out", data / "out", "--json"),
    ]


def test_train_and_evaluate_the_checkpoint(data: Path) -> None:
    """A network is trained and judged; both commands end with the documented JSON, and agree."""
    result = invoke(*training(data), "--val-images", data / "val_images", "--val-labels", data / "val_labels")
    assert result.exit_code == 0, result.stderr
    trained = json.loads(result.stdout)
    assert trained.keys() == {"steps", "seconds", "checkpoint", "miou", "raw_miou"}
    assert (trained["steps"], trained["checkpoint"]) == (2, str(data / "out/checkpoint.pt"))
    arguments = ("--images", data / "val_images", "--truth", data / "val_labels", "--classes", data / "classes.json")
    result = invoke("evaluate", "--checkpoint", trained["checkpoint"], *arguments, "--scales", "1", "--json")
    assert result.exit_code == 0, result.stderr
    judged = json.loads(result.stdout)
    assert judged["miou"] == trained["miou"]
    assert judged.keys() == {
        *("images", "miou", "iou", "pixel_accuracy", "coverage"),
        *("precision", "precision_by_class", "recall_by_class"),
    }
    assert list(judged["iou"]) == ["road", "pole", "sky"]


def test_repeated_command_says_that_it_is_finished(data: Path) -> None:
    """The same command again finds its work done; with other settings it is refused with exit code 2."""
    assert json.loads(invoke(*training(data)).stdout).keys() == {"steps", "seconds", "checkpoint"}
    again = invoke(*training(data))
    assert again.exit_code == 0
    assert "is finished at step 2 of 2" in again.stderr
    other = invoke(*training(data), "--seed", "1")
    assert other.exit_code == 2
    assert "seed: 0 -> 1" in other.stderr


def test_evaluating_on_training_images_is_a_usage_error(data: Path) -> None:
    """A checkpoint is not judged on images it was trained on, unless that is asked for; the message names them."""
    checkpoint = json.loads(invoke(*training(data)).stdout)["checkpoint"]
    arguments = ("--images", data / "images", "--truth", data / "labels", "--classes", data / "classes.json")
    judge = ("evaluate", "--checkpoint", checkpoint, *arguments, "--scales", "1")
    refused = invoke(*judge)
    assert refused.exit_code == 2
    assert "3 of 3 images" in refused.stderr
    assert str(data / "images/0.png") in refused.stderr
    assert invoke(*judge, "--allow-training-images").exit_code == 0


def test_dry_run_prints_the_plan_and_trains_nothing(data: Path) -> None:
    """A dry run says parameters, memory, steps and epochs over each kind, also as JSON, and leaves no network."""
    result = invoke(*training(data), "--dry-run")
    assert result.exit_code == 0, result.stderr
    assert "million parameters" in result.stderr
    assert "2 steps of 2 crops in 1 process" in result.stderr
    plan = json.loads(result.stdout)
    assert plan["kinds"]["fine"]["images"] == 3
    assert plan["memory_bytes"] == plan["state_bytes"] + plan["activation_bytes"] > 0
    assert not (data / "out/checkpoint.pt").exists()


def test_resume_needs_something_to_go_on_with(data: Path) -> None:
    """With --resume a wrong folder is an error, not a new run; with a run in it the flag changes nothing."""
    refused = invoke(*training(data), "--resume")
    assert refused.exit_code == 2
    assert "no state of a training run" in refused.stderr
    assert invoke(*training(data)).exit_code == 0
    assert invoke(*training(data), "--resume").exit_code == 0


def test_settings_file_of_a_run_repeats_it(data: Path) -> None:
    """The settings that a run leaves behind stand for its flags."""
    invoke(*training(data))
    result = invoke("train", "--settings", data / "out/settings.toml", "--out", data / "second", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["checkpoint"] == str(data / "second/checkpoint.pt")
    first, second = (
        (data / name / "log.jsonl").read_text().partition("crops_per_second")[0] for name in ("out", "second")
    )
    assert first == second


def test_labels_are_judged(data: Path) -> None:
    """A label folder judged against itself is right everywhere; the table names every class."""
    arguments = (
        "evaluate",
        "--labels",
        data / "labels",
        "--truth",
        data / "labels",
        "--classes",
        data / "classes.json",
    )
    result = invoke(*arguments)
    assert result.exit_code == 0, result.stderr
    assert "mIoU 100.00% over 3 images" in result.stdout
    assert all(name in result.stdout for name in ("road", "pole", "sky"))
    (data / "other").mkdir()
    (data / "labels/0.png").rename(data / "other/0.png")
    partly = invoke("evaluate", "--labels", data / "labels", "--truth", data / "other", *arguments[5:])
    assert partly.exit_code == 1
    assert "no label of" in partly.stderr


def test_labels_are_judged_without_their_small_components(data: Path) -> None:
    """--min-component tells what a clean-up does, as a table and as JSON, and leaves the rest of the output alone."""
    arguments = ("--labels", data / "labels", "--truth", data / "labels", "--classes", data / "classes.json")
    plain = json.loads(invoke("evaluate", *arguments, "--json").stdout)
    judged = json.loads(invoke("evaluate", *arguments, "--min-component", "4", "--json").stdout)
    effect = judged.pop("min_component")
    assert judged == plain
    assert effect.keys() == {"pixels", "coverage", "precision", "miou", "bytes", "before"}
    assert effect["pixels"] == 4
    assert effect["before"] == {
        **{name: plain[name] for name in ("coverage", "precision", "miou")},
        "bytes": effect["before"]["bytes"],
    }
    assert effect["precision"] == 1
    assert 0 < effect["coverage"] < effect["before"]["coverage"]
    assert 0 < effect["bytes"] < effect["before"]["bytes"]
    said = invoke("evaluate", *arguments, "--min-component", "4").stdout
    assert "without components of fewer than 4 pixels" in said
    assert f"{effect['coverage']:.2%}" in said
    assert "components" not in invoke("evaluate", *arguments).stdout


def test_left_out_files_are_warned_of(data: Path) -> None:
    """Truths without a label are left out, and that is said."""
    (data / "some").mkdir()
    (data / "some/0.png").write_bytes((data / "labels/0.png").read_bytes())
    result = invoke(
        *(
            "evaluate",
            "--labels",
            data / "some",
            "--truth",
            data / "labels",
            "--classes",
            data / "classes.json",
            "--json",
        )
    )
    assert json.loads(result.stdout)["images"] == 1
    assert "2 truths without a prediction" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "either --labels, or --checkpoint"),
        (("--labels", "labels", "--checkpoint", "classes.json"), "either --labels, or --checkpoint"),
        (("--checkpoint", "classes.json"), "--checkpoint needs --images"),
        (("--labels", "labels", "--scales", "1"), "--scales is for --checkpoint"),
        (("--labels", "labels", "--device", "cpu"), "--device is for --checkpoint"),
        (("--labels", "labels", "--min-component", "-1"), "x>=0"),
        (
            ("--checkpoint", "classes.json", "--images", "images", "--min-component", "4"),
            "--min-component is for --labels",
        ),
    ],
)
def test_contradicting_options_are_refused(
    data: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    """What is to be judged must be said once, and options that would do nothing are refused, with exit code 2."""
    monkeypatch.chdir(data)
    result = invoke("evaluate", *arguments, "--truth", "labels", "--classes", "classes.json")
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize("line", ["scales = [1]", 'device = "cpu"', 'images = "images"', 'precision = "fp32"'])
def test_a_settings_file_cannot_say_what_labels_would_ignore(
    data: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    """An option of --checkpoint is refused beside --labels in the settings file as on the command line."""
    monkeypatch.chdir(data)
    (data / "s.toml").write_text(f'[evaluate]\ntruth = "labels"\nclasses = "classes.json"\n{line}\n')
    result = invoke("evaluate", "--settings", "s.toml", "--labels", "labels")
    assert result.exit_code == 2
    assert f"--{line.split()[0]} is for --checkpoint" in result.stderr


def test_training_settings_are_checked_together(data: Path) -> None:
    """Labels without their images are refused with exit code 2, before anything is read."""
    result = invoke(*training(data), "--auto-labels", data / "labels")
    assert result.exit_code == 2
    assert "--auto-labels is given without --auto-images" in result.stderr


@pytest.mark.parametrize(
    ("scales", "says"),
    [("nan,1", "positive numbers"), ("inf,1", "positive numbers"), ("1,1", "only once"), ("0.5", "1.0 must be among")],
)
def test_scales_that_cannot_be_fused_are_refused_before_any_work(data: Path, scales: str, says: str) -> None:
    """Settings refuse the scales that the fusion refuses, with exit code 2 and the same words."""
    result = invoke(*training(data), "--scales", scales)
    assert result.exit_code == 2
    assert says in result.stderr
    assert not (data / "out").exists()


def test_scales_are_kept_in_one_order(data: Path) -> None:
    """The order in which scales are given makes no other settings."""
    given = {"fine_images": data, "fine_labels": data, "classes": "camvid", "out": data}
    assert TrainSettings.checked(**given, scales=(2.0, 1.0, 0.5)).scales == (0.5, 1.0, 2.0)


def test_flags_and_settings_have_the_same_names_and_defaults(data: Path) -> None:
    """Every setting is a flag of the same name with the same default, so that the library and the command agree."""
    required = {
        "fine_images": data / "images",
        "fine_labels": data / "labels",
        "classes": "camvid",
        "out": data / "out",
    }
    arguments = [str(part) for name, value in required.items() for part in (f"--{name.replace('_', '-')}", value)]
    options = train.make_context("train", arguments).params
    assert options.keys() - TrainSettings.model_fields.keys() == {"as_json", "dry_run", "resume"}
    assert TrainSettings.model_fields.keys() <= options.keys()
    for flag in ("as_json", "dry_run", "resume"):
        del options[flag]
    assert TrainSettings.checked(**options) == TrainSettings.checked(**required)


def test_source_ids_that_nobody_knows_are_warned_of(data: Path) -> None:
    """Pixels of the truth whose source id the schema does not know are counted in a warning that names the schema."""
    for folder, values in (("known", [[0, 1, 2]]), ("strange", [[0, 200, 201]])):
        (data / folder).mkdir()
        Image.fromarray(np.array(values, np.uint8)).save(data / folder / "a.png")
    arguments = ("evaluate", "--labels", data / "known", "--classes", data / "classes.json", "--ids", "source")
    warned = invoke(*arguments, "--truth", data / "strange")
    assert warned.exit_code == 0
    assert "2 pixels of the truth have source ids that classes does not know" in warned.stderr
    assert "source ids" not in invoke(*arguments, "--truth", data / "known").stderr


def test_a_truth_that_was_read_with_the_wrong_ids_is_warned_of(data: Path) -> None:
    """Where classes have no true pixel one line says so; where one class alone has any, also what 255 may be."""
    (data / "masks").mkdir()
    for values, said in (([[0, 255]], "Only road has any: 255 is ignored"), ([[0, 1]], ""), ([[0, 1, 2]], None)):
        Image.fromarray(np.array(values, np.uint8)).save(data / "masks/a.png")
        arguments = ("--labels", data / "masks", "--truth", data / "masks", "--classes", data / "classes.json")
        warned = invoke("evaluate", *arguments)
        assert warned.exit_code == 0
        assert warned.stderr.count("the truth has no pixel of ") == (said is not None)
        assert (said or "") in warned.stderr
        assert ("say --ids source" in warned.stderr) == bool(said)


def test_flags_win_over_what_a_recipe_says_otherwise(data: Path) -> None:
    """Steps as a flag stand instead of a recipe's epochs, and another network does away with its encoder."""
    arguments = [
        *("--settings", "cityscapes-deeplab", "--fine-images", data / "images", "--fine-labels", data / "labels"),
        *("--steps", "5", "--network", "hrnet-ocr", "--out", data / "out"),
    ]
    context = train.make_context("train", [str(a) for a in arguments], parent=click.Context(main))
    with context.scope():
        options = flags_win(context.params)
    assert (options["steps"], options["epochs"], options["encoder"]) == (5, None, None)
