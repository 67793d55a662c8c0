"""`estimate --teacher`: a sample is labelled and measured, and a run then takes what was foretold."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from cli.main import main
from storage.account import MARGIN


def invoke(*arguments: object) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture
def images(tmp_path: Path, make_image: Callable[..., object]) -> Path:
    """Six images of two sizes in two folders."""
    for number in range(6):
        size = (40, 56) if number < 4 else (33, 47)
        make_image(tmp_path / "images" / "ab"[number % 2] / f"{number}.png", size, number)
    return tmp_path / "images"


@pytest.fixture
def estimate(images: Path, tiny_teacher: Path) -> Callable[..., Result]:
    """Estimate with the tiny teacher."""

    def run(*more: object) -> Result:
        return invoke(
            "estimate", "--images", images, "--teacher", tiny_teacher, "--device", "cpu", "--scales", "0.5,1", *more
        )

    return run


def result_of(result: Result, exit_code: int = 0) -> dict[str, Any]:
    """The JSON of a command that ended as expected."""
    assert result.exit_code == exit_code, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.mark.parametrize(("png", "keep"), [("fast", "none"), ("small", "top2")])
def test_of_the_whole_set_the_estimate_is_what_the_run_then_takes(
    estimate: Callable[..., Result], images: Path, tiny_teacher: Path, tmp_path: Path, png: str, keep: str
) -> None:
    """Labels to the byte; what is kept beside them but for the store's metadata; and no interval."""
    form = ("--png", png, "--keep", keep, "--threshold", 0.6)
    got = result_of(estimate(*form, "--json"))
    out = tmp_path / "run"
    more = ("--device", "cpu", "--scales", "0.5,1", "--out", out)
    assert invoke("label", "--images", images, "--teacher", tiny_teacher, *form, *more).exit_code == 0
    taken = result_of(invoke("budget", out, "--json"))
    assert got["labels"][png] == {"bytes": taken["bytes"], "low": taken["bytes"], "high": taken["bytes"]}
    if keep != "none":
        chunks = sum(path.stat().st_size for path in (out / "soft").rglob("c.*"))
        assert got["stores"][keep]["bytes"] == chunks
    assert got["basis"] == "measured"
    assert (got["count"], got["sampled"], got["classes"]) == (6, 6, 3)
    assert got["soft"]["fp32"]["raw_bytes"] == taken["soft"]["fp32"]
    assert (got["chosen"]["png"], got["chosen"]["keep"]) == (png, keep)
    assert got["chosen"]["bytes"] == got["together"][f"{png}+{keep}"]["bytes"]
    assert got["verdict"] is None


def test_attention_maps_are_counted(
    estimate: Callable[..., Result], images: Path, tiny_teacher: Path, tmp_path: Path
) -> None:
    """Of the whole set, to the byte; and they are part of what all files of the run take."""
    got, without = (result_of(estimate(*more, "--json")) for more in (("--save-attention",), ()))
    more = ("--device", "cpu", "--scales", "0.5,1", "--out", tmp_path / "run", "--save-attention")
    assert invoke("label", "--images", images, "--teacher", tiny_teacher, *more).exit_code == 0
    taken = sum(path.stat().st_size for path in (tmp_path / "run/attention").rglob("*.png"))
    assert got["attention"]["bytes"] == taken > 0
    assert got["chosen"]["bytes"] - without["chosen"]["bytes"] == taken
    assert without["attention"] is None


def test_a_sample_gives_intervals_and_the_text_says_what_they_rest_on(estimate: Callable[..., Result]) -> None:
    """Four of six images: totals for six, with an interval; time on several devices; coverage."""
    got = result_of(estimate("--sample", 4, "--devices", 4, "--json"))
    assert (got["count"], got["sampled"]) == (6, 4)
    for kind in ("labels", "stores", "together"):
        for one in got[kind].values():
            assert 0 < one["low"] <= one["bytes"] <= one["high"]
    assert got["seconds_on_devices"] == pytest.approx(got["seconds"]["total"] / 4)
    assert 0 < got["coverage"] < 1
    text = estimate("--sample", 4, "--devices", 4).stdout
    for words in ("nine cases of ten", "label PNG, smallest", "kept beside it, top2", "coverage on the sample"):
        assert words in text
    for words in (
        "on this device (cpu)",
        "4 such devices",
        "rests on: the sample",
        "free space",
        "uncompressed, exact",
    ):
        assert words in text
    assert estimate("--sample", 4, "--seed", 0, "--json").exit_code == 0


def test_the_clean_up_is_told_with_and_without(estimate: Callable[..., Result]) -> None:
    """Coverage falls with the clean-up, and the figures without it are those of no clean-up."""
    plain = result_of(estimate("--json"))
    result = estimate("--min-component", 30, "--json")
    cleaned = result_of(result)
    before = {"labels": plain["labels"]["fast"], "coverage": plain["coverage"], "precision": None}
    assert cleaned["without_clean_up"] == before
    assert cleaned["coverage"] < plain["coverage"]
    assert cleaned["labels"]["fast"] != plain["labels"]["fast"]
    assert "without the clean-up" in result.stderr
    assert plain["without_clean_up"] is None


def test_with_truth_the_precision_is_told(
    estimate: Callable[..., Result], images: Path, tiny_teacher: Path, tmp_path: Path
) -> None:
    """Against its own labels the teacher is always right; against those of one image turned over it is not."""
    out = tmp_path / "run"
    more = ("--device", "cpu", "--scales", "0.5,1", "--out", out)
    assert invoke("label", "--images", images, "--teacher", tiny_teacher, *more).exit_code == 0
    got = result_of(estimate("--truth", out, "--min-component", 5, "--json"))
    assert (got["precision"], got["without_clean_up"]["precision"]) == (1, 1)
    turned = tmp_path / "turned" / "a" / "0.png"
    turned.parent.mkdir(parents=True)
    with Image.open(out / "labels" / "a" / "0.png") as label:
        label.transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(turned)
    result = estimate("--truth", tmp_path / "turned")
    assert result.exit_code == 0
    assert 0 < result_of(estimate("--truth", tmp_path / "turned", "--json"))["precision"] < 1
    assert "precision" in result.stdout
    with Image.open(turned) as label:
        label.crop((0, 0, 5, 5)).save(turned)
    wrong = estimate("--truth", tmp_path / "turned")
    assert wrong.exit_code == 1
    assert str(turned) in wrong.stderr


def test_the_budget_is_on_what_was_chosen(estimate: Callable[..., Result]) -> None:
    """Exit code 4 where the estimate is over it, with what would fit; 0 where it is not, or not surely."""
    got = result_of(estimate("--keep", "top2", "--json"))
    top2, none = (got["together"][f"fast+{keep}"]["bytes"] for keep in ("top2", "none"))
    between = MARGIN + (top2 + none) // 2  # `label` keeps the margin free
    over = estimate("--keep", "top2", "--budget", between)
    assert over.exit_code == 4
    assert "does not fit" in over.stdout
    assert "--png fast --keep none" in over.stdout
    assert result_of(estimate("--budget", between, "--json"))["verdict"] == "fits"
    hopeless = estimate("--budget", 100)
    assert hopeless.exit_code == 4
    assert "neither another preset nor keeping less" in hopeless.stdout


def test_a_budget_within_the_interval_is_uncertain(estimate: Callable[..., Result]) -> None:
    """By the estimate it fits, so the exit code is 0; that it may not is a warning."""
    got = result_of(estimate("--sample", 4, "--json"))["chosen"]
    assert got["bytes"] < got["high"]
    result = estimate("--sample", 4, "--budget", MARGIN + (got["bytes"] + got["high"]) // 2, "--json")
    found = result_of(result)
    assert (found["verdict"], found["within_budget"]) == ("uncertain", True)
    assert "uncertain" in result.stderr


def test_images_that_would_share_a_label_are_left_out_and_told(
    estimate: Callable[..., Result], images: Path, make_image: Callable[..., object]
) -> None:
    """They are in no total, as they get no label, and the reason names both."""
    make_image(images / "a/same.png", (40, 56), 1)
    make_image(images / "a/same.jpg", (40, 56), 1)
    got = result_of(estimate("--json"))
    assert got["count"] == 6
    assert len(got["left_out"]) == 2
    assert all("same.jpg and same.png would share the label a/same.png" in reason for reason in got["left_out"])


def test_damaged_images_are_left_out_and_told(estimate: Callable[..., Result], images: Path) -> None:
    """A file that is no image, and one whose end is missing, stand for nothing; of nothing else there is an error."""
    (images / "a" / "note.png").write_text("no image")
    whole = (images / "a" / "0.png").read_bytes()
    (images / "a" / "cut.png").write_bytes(whole[: len(whole) // 2])
    result = estimate("--json")
    got = result_of(result)
    assert (got["count"], got["sampled"], len(got["left_out"])) == (6, 6, 2)
    assert "note.png" in result.stderr
    assert "cut.png" in result.stderr
    for path in images.rglob("*.png"):
        path.write_text("no image")
    result = estimate("--json")
    assert result.exit_code == 1
    assert "can be read" in result.stderr


@pytest.mark.parametrize(
    "more",
    [("--count", 3), ("--classes", 19), ("--sample", 1), ("--size", "3x3"), ("--scales", "0.5"), ("--threshold", 2)],
)
def test_what_cannot_be_measured_is_a_usage_error(estimate: Callable[..., Result], more: tuple[object, ...]) -> None:
    """Contradictions and values out of range are exit code 2."""
    assert estimate(*more).exit_code == 2


@pytest.mark.parametrize("more", [("--sample", 5), ("--png", "small"), ("--min-component", 3), ("--flip",)])
def test_what_is_for_measuring_needs_a_teacher(more: tuple[object, ...]) -> None:
    """The model knows no presets and no thresholds: such an option without a teacher is a misunderstanding."""
    result = invoke("estimate", "--count", 3, "--size", "3x3", "--classes", 3, *more)
    assert result.exit_code == 2
    assert "--teacher" in result.stderr
