"""The command `fit-attention`, and labels made by the teacher that it describes."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from cli.main import main
from pipeline.evaluation import evaluate_network
from storage.schema import ClassSchema
from teacher import load_teacher
from teacher.checkpoint import save_checkpoint
from teacher.networks.prediction import Fusion
from teacher.networks.registry import build_network, default_spec


def invoke(*arguments: str | Path) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture
def command(tmp_path: Path, schema: ClassSchema, make_image: Callable[..., object]) -> list[str | Path]:
    """Fits an attention to a teacher that was trained for the average, on five images of six that have labels."""
    spec = default_spec("deeplabv3plus", len(schema), "mobilenetv3_small_050", attention="average")
    torch.manual_seed(3)
    save_checkpoint(tmp_path / "teacher.pt", build_network(spec), spec, schema, {})
    (tmp_path / "classes.json").write_text(json.dumps(schema.to_dict()))
    (tmp_path / "labels").mkdir()
    for number in range(6):
        make_image(tmp_path / f"images/{number}.png", (40, 56), number)
        truth = np.random.default_rng(number).choice(np.array([0, 1, 2, 255], np.uint8), (5, 7))
        if number < 5:
            Image.fromarray(truth.repeat(8, 0).repeat(8, 1)).save(tmp_path / f"labels/{number}.png")
    paths = ["--images", tmp_path / "images", "--labels", tmp_path / "labels", "--out", tmp_path / "fit"]
    options = ["--steps", "2", "--batch", "1", "--channels", "4", "--device", "cpu"]
    return ["fit-attention", "--teacher", tmp_path / "teacher.pt", *paths, "--scales", "0.5,1", *options]


def test_the_fitted_teacher_labels_by_its_attention(command: list[str | Path], tmp_path: Path) -> None:
    """What is described labels hierarchically, and is not judged on the images that its attention was fitted on."""
    result = invoke(*command, "--json")
    assert result.exit_code == 0, result.output
    got = json.loads(result.stdout)
    assert (got["trained_on"], len(got["judged_on"]), got["fitted_before"]) == (4, 1, False)
    assert set(got["fusions"]) == {"single", "average", "attention"}
    assert "1 images of" in got["warnings"][0]
    assert "take about" in result.stderr
    teacher = ["--teacher", got["teacher"], "--images", tmp_path / "images", "--scales", "0.5,1", "--device", "cpu"]
    labelled = invoke("label", *teacher, "--save-attention", "--out", tmp_path / "run")
    assert labelled.exit_code == 0, labelled.output
    assert len(list((tmp_path / "run/attention/0.5").iterdir())) == 6
    judged = ["evaluate", "--checkpoint", got["teacher"], *teacher[2:], "--truth", tmp_path / "labels"]
    judged += ["--classes", tmp_path / "classes.json"]
    leaking = invoke(*judged)
    assert leaking.exit_code == 2
    assert "trained on" in leaking.stderr
    card = json.loads(invoke("teacher", got["teacher"], "--json").stdout)
    assert card["training"]["images"] > 0, "the images that it is not judged on are told"
    command[command.index(tmp_path / "teacher.pt")] = got["teacher"]
    again = invoke(*command, "--out", tmp_path / "again")
    assert again.exit_code == 2
    assert "attention of its own (hierarchical)" in again.stderr


def test_a_finished_fit_describes_the_teacher_where_it_is_now(command: list[str | Path], tmp_path: Path) -> None:
    """The same teacher under another path: nothing is fitted again, and the description leads to the new one."""
    assert invoke(*command).exit_code == 0
    before = (tmp_path / "fit/attention.safetensors").stat().st_mtime_ns
    (tmp_path / "teacher.pt").rename(tmp_path / "moved.pt")
    command[command.index(tmp_path / "teacher.pt")] = tmp_path / "moved.pt"
    assert invoke(*command).exit_code == 0
    assert (tmp_path / "fit/attention.safetensors").stat().st_mtime_ns == before
    assert "moved.pt" in (tmp_path / "fit/teacher.toml").read_text()


def test_a_description_that_was_edited_stays(command: list[str | Path], tmp_path: Path) -> None:
    """The same command says so and changes nothing of it, also where it fits again; one that was removed is made."""
    assert invoke(*command).exit_code == 0
    file, head = tmp_path / "fit/teacher.toml", tmp_path / "fit/attention.safetensors"
    ours = file.read_bytes()
    file.write_bytes(b"# ours, of May\n" + ours)
    for fitted_before in (True, False):
        again = invoke(*command, "--json")
        assert json.loads(again.stdout)["fitted_before"] is fitted_before
        assert "was edited since it was written" in again.stderr
        assert json.loads(again.stdout)["warnings"][-1].endswith("remove it to have it anew")
        assert file.read_bytes() == b"# ours, of May\n" + ours
        head.unlink()
    invoke(*command)
    file.unlink()
    again = invoke(*command, "--json")
    assert json.loads(again.stdout)["fitted_before"]
    assert "was edited" not in again.stderr
    assert file.read_bytes() == ours


def test_what_is_damaged_is_fitted_again_or_told(command: list[str | Path], tmp_path: Path) -> None:
    """A damaged head is made anew, as it was; another's is not written over; a damaged report is told to be removed."""
    assert invoke(*command).exit_code == 0
    head, report = tmp_path / "fit/attention.safetensors", tmp_path / "fit/fit.json"
    whole, said = head.read_bytes(), report.read_text()
    head.write_bytes(whole[:100])
    assert invoke(*command).exit_code == 0
    assert head.read_bytes() == whole
    other = invoke(*command, "--seed", "1", "--out", tmp_path / "other")
    assert other.exit_code == 0, other.output
    head.write_bytes((tmp_path / "other/attention.safetensors").read_bytes())
    refused = invoke(*command)
    assert refused.exit_code == 2
    assert "is another head than the one that was fitted here" in refused.stderr
    assert head.read_bytes() == (tmp_path / "other/attention.safetensors").read_bytes()
    content = json.loads(said)
    del content["fusions"]
    for text in (json.dumps(content), "[" * 100_000, said[:-100]):
        report.write_text(text)
        damaged = invoke(*command)
        assert damaged.exit_code == 1
        assert "remove it to fit the head again" in damaged.stderr


def test_the_figures_are_those_of_the_evaluation(command: list[str | Path], tmp_path: Path) -> None:
    """What the report says of each way to fuse is what the teacher gives by it, up to the rounding of kept logits."""
    options = ["--scales", "0.5,1,2", "--val-images", tmp_path / "val", "--val-labels", tmp_path / "val_labels"]
    for folder, source in (("val", "images"), ("val_labels", "labels")):
        (tmp_path / folder).mkdir()
        (tmp_path / source / "4.png").rename(tmp_path / folder / "4.png")
    result = invoke(*command, *options, "--learning-rate", "1", "--json")
    assert result.exit_code == 0, result.output
    got = json.loads(result.stdout)
    fitted = load_teacher(got["teacher"])
    fusions: dict[str, Fusion] = {"attention": "hierarchical", "average": "average", "single": "single"}
    for name, fusion in fusions.items():
        *_, last = evaluate_network(fitted, tmp_path / "val", tmp_path / "val_labels", (0.5, 1, 2), fusion=fusion)
        assert got["fusions"][name]["pixel_accuracy"] == pytest.approx(last.scores().pixel_accuracy, abs=0.01)
    rates = [one["pixel_accuracy"] for one in got["fusions"].values()]
    assert len(set(rates)) == len(rates)


def test_people_are_told_whether_it_helped(command: list[str | Path]) -> None:
    """The three ways to fuse are compared, what lags behind is called so, and a second call fits nothing again."""
    first = invoke(*command)
    assert first.exit_code == 0, first.output
    for row in ("scale 1 alone", "average", "attention"):
        assert f"\n  {row}" in first.stdout
    assert "the attention gains" in first.stdout or "the attention is no better than" in first.stdout
    again = invoke(*command)
    assert "fitted before" in again.stdout
    assert again.stdout.splitlines()[1:] == first.stdout.splitlines()[-len(again.stdout.splitlines()) + 1 :]
    other = invoke(*command, "--seed", "1")
    assert other.exit_code == 2
    assert "seed: 0 -> 1" in other.stderr


def test_teachers_that_need_none_are_refused(command: list[str | Path], tiny_teacher: Path, tmp_path: Path) -> None:
    """A teacher with an attention of its own, and one scale alone, have nothing to be fitted."""
    command[command.index(tmp_path / "teacher.pt")] = tiny_teacher
    own = invoke(*command)
    assert own.exit_code == 2
    assert "attention of its own (hierarchical)" in own.stderr
    one = invoke(*command, "--scales", "1")
    assert one.exit_code == 2
    assert "two or more" in one.stderr
