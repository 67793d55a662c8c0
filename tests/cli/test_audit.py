"""The command `audit`, and the gates of `audit`, `label` and `train`."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from cli.main import main
from pipeline.audit_file import read_audit
from storage.label_map import LabelMap
from storage.label_png import encode_label_png
from storage.ledger import Entry, Ledger
from storage.schema import ClassSchema
from storage.workspace import Workspace

IMAGES = 12


def invoke(*arguments: str | Path) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture
def data(tmp_path: Path, make_image: Callable[..., object], schema: ClassSchema) -> Path:
    """Images, a run of labels, coarse labels that agree with it (same) and that never do (other), and the classes."""
    run = Workspace(tmp_path / "run")
    run.prepare()
    for number in range(IMAGES):
        make_image(tmp_path / f"images/{number}.png", (24, 32), number)
        values = np.random.default_rng(number).choice(np.array([0, 1, 2, 255], np.uint8), (24, 32))
        run.publish(run.label_path(str(number)), encode_label_png(LabelMap(values, len(schema))))
    with Ledger(run.ledger) as ledger:
        ledger.claim({"classes": list(schema.names), "threshold": 0.5})
        ledger.commit([Entry(key=str(number), status="done", settings_digest="") for number in range(IMAGES)])
    (tmp_path / "classes.json").write_text(json.dumps(schema.to_dict()))
    run.publish(run.classes, (tmp_path / "classes.json").read_bytes())
    run.tidy()
    draw_coarse(tmp_path)
    return tmp_path


@pytest.fixture
def labelled(data: Path, tiny_teacher: Path) -> Path:
    """The same with a run that a teacher has labelled."""
    shutil.rmtree(data / "run")
    assert tiny_teacher == data / "tiny_teacher.pt"
    assert label(data).exit_code == 0
    draw_coarse(data)
    return data


def draw_coarse(data: Path) -> None:
    """Write the coarse labels that fit the run's."""
    for name, move in (("same", 0), ("other", 1)):
        (data / name).mkdir(exist_ok=True)
        for path in (data / "run/labels").iterdir():
            values = np.array(Image.open(path))
            Image.fromarray(np.where(values == 255, 0, (values + move) % 3).astype(np.uint8)).save(
                data / name / path.name
            )


def label(data: Path, *options: str | Path) -> Result:
    """The command that makes a run, with more options; it labels nothing again."""
    teacher = ("--images", data / "images", "--teacher", data / "tiny_teacher.pt", "--scales", "1", "--device", "cpu")
    return invoke("label", *teacher, "--out", data / "run", *options)


def train(data: Path, *options: str | Path) -> Result:
    """A training on the run's labels that stops before its first step."""
    return invoke(
        *(
            "train",
            "--fine-images",
            data / "images",
            "--fine-labels",
            data / "same",
            "--classes",
            data / "classes.json",
        ),
        *("--auto-images", data / "images", "--auto-labels", data / "run", "--encoder", "resnet10t", "--crop", "32x32"),
        *("--batch", "2", "--workers", "0", "--device", "cpu", "--out", data / "student", "--dry-run", *options),
    )


def test_an_audit_is_told_and_written_into_the_run(data: Path) -> None:
    """Words with the bias for people, JSON for programs, and the file in the run."""
    result = invoke("audit", data / "run", "--coarse", data / "same")
    assert result.exit_code == 0, result.stderr
    assert f"{IMAGES} images: of the pixels that humans drew" in result.stdout
    assert "of these 100.0%" in result.stdout
    assert "coarse labels cover the interiors of large objects" in result.stdout
    assert f"audit {IMAGES}/{IMAGES}" in result.stderr
    audit = read_audit(data / "run/audit.json")
    assert (audit.precision, len(audit.images), audit.classes[0].threshold) == (1.0, IMAGES, 0.5)
    got = json.loads(invoke("audit", data / "run", "--coarse", data / "other", "--json").stdout)
    assert (got["precision"], got["images_compared"], got["out"]) == (0.0, IMAGES, str(data / "run/audit.json"))
    assert len(got["images"]) == 10
    assert got["bias"] == list(audit.bias)


def test_a_label_folder_needs_classes_and_a_place(data: Path) -> None:
    """Of a folder that is no run, classes and the file are to be given; then it is audited the same."""
    (data / "run/labels").rename(data / "labels")
    refused = invoke("audit", data / "labels", "--coarse", data / "same")
    assert refused.exit_code == 2
    assert "give both --classes and --out" in refused.stderr
    for given in (("--classes", data / "classes.json"), ("--out", data / "a.json")):
        assert invoke("audit", data / "labels", "--coarse", data / "same", *given).exit_code == 2
    result = invoke(
        *("audit", data / "labels", "--coarse", data / "same", "--classes", data / "classes.json"),
        *("--out", data / "a.json"),
    )
    assert result.exit_code == 0, result.stderr
    assert read_audit(data / "a.json").classes[0].threshold is None


def test_images_that_lack_either_label_are_warned_of(data: Path) -> None:
    """What is left out is counted in a warning."""
    (data / "same/0.png").unlink()
    (data / "same/1.png").rename(data / "same/strange.png")
    result = invoke("audit", data / "run", "--coarse", data / "same")
    assert result.exit_code == 0
    assert "2 labels without a coarse one and 1 coarse ones without a label are left out" in result.stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--gate", "precisoin>=0.9"), "expected something like precision>=0.9"),
        (("--gate", "precision>=0.9", "--gate", "precision>=0.8"), "are on the same"),
        (("--gate", "precision[rode]>=0.9"), "rode is no class of three; known are road, pole, sky"),
        (("--classes", "camvid"), "has labels of the classes"),
    ],
)
def test_mistakes_are_refused_before_any_work(data: Path, options: tuple[str, ...], says: str) -> None:
    """A gate that cannot be read or is on no class, or other classes, are exit code 2, and nothing is written."""
    result = invoke("audit", data / "run", "--coarse", data / "same", *options)
    assert result.exit_code == 2
    assert says in result.stderr
    assert not (data / "run/audit.json").exists()


def test_a_gate_that_is_not_met_is_exit_code_4(data: Path) -> None:
    """The audit is written and told, and the classes that fail are named."""
    met = invoke("audit", data / "run", "--coarse", data / "same", "--gate", "precision>=0.9")
    assert met.exit_code == 0, met.stderr
    assert "the gate precision>=0.9 is met" in met.stdout
    failed = invoke("audit", data / "run", "--coarse", data / "other", "--gate", "precision>=0.9", "--json")
    assert failed.exit_code == 4
    got = json.loads(failed.stdout)
    assert got["precision"] == 0
    assert "precision 0.00% (0.00% to" in got["gate_failure"]
    assert got["gate_failure"] in failed.stderr
    assert read_audit(data / "run/audit.json").precision == 0


def test_gates_may_stand_in_a_settings_file(data: Path) -> None:
    """A list of conditions stands for the option; one text is refused, not taken for its letters."""
    (data / "s.toml").write_text('[audit]\ngate = ["precision>=0.9", "coverage>=0.5"]\n')
    arguments = ("audit", "--settings", data / "s.toml", data / "run", "--coarse", data / "other")
    assert invoke(*arguments).exit_code == 4
    (data / "s.toml").write_text('[audit]\ngate = "precision>=0.9"\n')
    refused = invoke(*arguments)
    assert refused.exit_code == 2
    assert "expected a list" in refused.stderr


def test_label_audits_at_its_end_and_keeps_what_fails_the_gate(labelled: Path) -> None:
    """With --coarse the audit is in the run and in the JSON; a gate that fails is exit code 4, and the labels stay."""
    met = label(labelled, "--coarse", labelled / "same", "--gate", "precision>=0.9", "--json")
    assert met.exit_code == 0, met.stderr
    assert json.loads(met.stdout)["audit"]["precision"] == 1
    assert invoke("verify", labelled / "run").exit_code == 0
    before = {path: path.read_bytes() for path in (labelled / "run/labels").iterdir()}
    failed = label(labelled, "--coarse", labelled / "other", "--gate", "precision>=0.9", "--json")
    assert failed.exit_code == 4
    assert json.loads(failed.stdout)["audit"]["precision"] == 0
    assert "is not met, as the audit of" in failed.stderr
    assert {path: path.read_bytes() for path in (labelled / "run/labels").iterdir()} == before
    again = invoke("label", "--settings", labelled / "run/settings.toml")
    assert again.exit_code == 4
    without = json.loads(label(labelled, "--json").stdout)
    assert without["audit"] is None


def test_coarse_labels_of_other_images_are_refused_before_any_work(labelled: Path) -> None:
    """A wrong folder, or one without labels, is told before the first image is labelled, and not after the last."""
    shutil.rmtree(labelled / "run")
    (labelled / "strange").mkdir()
    Image.new("L", (8, 8)).save(labelled / "strange/nobody.png")
    (labelled / "empty").mkdir()
    for coarse, says in (("strange", "labels such as nobody"), ("empty", "no labels found below it")):
        refused = label(labelled, "--coarse", labelled / coarse)
        assert refused.exit_code == 1
        assert says in refused.stderr
        assert not list(labelled.rglob("run/labels/*.png"))


def test_labels_gate_is_checked_before_any_work(labelled: Path) -> None:
    """Without a measure, or on a class that the teacher does not know, it is refused, and nothing is labelled."""
    refused = label(labelled, "--gate", "precision>=0.9")
    assert refused.exit_code == 2
    assert "--thresholds" in refused.stderr
    assert "--coarse" in refused.stderr
    for options, says in (
        (("--coarse", labelled / "same", "--gate", "precision[rode]>=0.9"), "rode is no class of three"),
        (("--coarse-ids", "source"), "coarse_ids says what the values of --coarse are"),
    ):
        result = label(labelled, *options, "--out", labelled / "new")
        assert result.exit_code == 2
        assert says in result.stderr
        assert not list((labelled / "new").glob("labels/*"))


def test_label_asks_a_calibration_before_it_starts(labelled: Path) -> None:
    """By a calibration that fails the gate nothing is labelled, exit code 4; one that meets it labels, and again."""
    for name in ("same", "other"):
        calibrated = invoke(
            *("calibrate", "--teacher", labelled / "tiny_teacher.pt", "--images", labelled / "images", "--scales", "1"),
            *("--truth", labelled / name, "--classes", labelled / "classes.json", "--target-precision", "0.9"),
            *("--device", "cpu", "--out", labelled / f"{name}.json"),
        )
        assert calibrated.exit_code == 0, calibrated.stderr
    new = ("--out", labelled / "new", "--gate", "precision>=0.9")
    failed = label(labelled, "--thresholds", labelled / "other.json", *new)
    assert failed.exit_code == 4
    assert "is not met, as the calibration of" in failed.stderr
    assert "nothing was labelled" in failed.stderr
    assert not (labelled / "new").exists()
    met = label(labelled, "--thresholds", labelled / "same.json", *new)
    assert met.exit_code == 0, met.stderr
    assert len(list((labelled / "new/labels").iterdir())) == IMAGES
    assert invoke("label", "--settings", labelled / "new/settings.toml").exit_code == 0
    (labelled / "run").rename(labelled / "before")
    (labelled / "new").rename(labelled / "run")
    assert train(labelled, "--gate", "precision>=0.9").exit_code == 0
    assert train(labelled, "--gate", "precision_low>=0.9999").exit_code == 4


def test_labels_coarse_labels_may_have_source_ids(labelled: Path, schema: ClassSchema) -> None:
    """--coarse-ids says what the human labels hold, whatever the run's own are."""
    for path in (labelled / "same").iterdir():
        Image.fromarray(schema.index_to_source[np.array(Image.open(path))]).save(path)
    result = label(labelled, "--coarse", labelled / "same", "--coarse-ids", "source", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["audit"]["precision"] == 1


def test_train_asks_the_runs_own_audit(data: Path) -> None:
    """Nobody trains on labels that fail the gate, or of which nothing is known; those that meet it are trained on."""
    refused = train(data, "--gate", "precision>=0.9")
    assert refused.exit_code == 2
    assert f"autocoarse audit {data / 'run'} --coarse DIR" in refused.stderr
    invoke("audit", data / "run", "--coarse", data / "other")
    failed = train(data, "--gate", "precision>=0.9")
    assert failed.exit_code == 4
    assert "is not met, as the audit of" in failed.stderr
    assert not (data / "student/index.npz").exists()
    invoke("audit", data / "run", "--coarse", data / "same")
    assert train(data, "--gate", "precision>=0.9").exit_code == 0


def test_trains_gate_needs_labels_that_it_is_on(data: Path) -> None:
    """A gate without automatic labels, or on a plain folder of them, is refused."""
    fine = ("train", "--fine-images", data / "images", "--fine-labels", data / "same", "--out", data / "student")
    alone = invoke(*fine, "--classes", data / "classes.json", "--gate", "precision>=0.9")
    assert alone.exit_code == 2
    assert "--auto-labels" in alone.stderr
    plain = train(data, "--auto-labels", data / "same", "--gate", "precision>=0.9")
    assert plain.exit_code == 2
    assert "is no RUN" in plain.stderr


def test_an_audit_replaces_nothing_but_an_audit(data: Path) -> None:
    """A file that --out names by mistake stays; an older audit of that name is made anew; no folder is told at once."""
    mine = data / "images/0.png"
    before = mine.read_bytes()
    result = invoke("audit", data / "run", "--coarse", data / "same", "--out", mine)
    assert result.exit_code == 2, result.output
    assert "is there and no audit" in result.stderr
    assert mine.read_bytes() == before
    result = invoke("audit", data / "run", "--coarse", data / "same", "--out", data / "absent/audit.json")
    assert (result.exit_code, "is no folder" in result.stderr) == (2, True)
    for coarse in ("same", "other"):
        assert invoke("audit", data / "run", "--coarse", data / coarse, "--out", data / "audit.json").exit_code == 0
    assert read_audit(data / "audit.json").precision == 0
