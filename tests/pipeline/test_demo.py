"""The demonstration in small: every stage is real, every figure comes from files that are there."""

import json
from pathlib import Path

from PIL import Image

from pipeline.demo import STUDENTS, DemoSettings, run_demo
from pipeline.evaluation import evaluate_labels
from storage.schema import load_schema


def test_the_demo_reports_what_its_files_hold_and_goes_on_where_it_was(tmp_path: Path) -> None:
    """Its figures are those of the labels and checkpoints that it leaves; a second run finds them done."""
    settings = DemoSettings(
        out=tmp_path,
        size=(48, 64),
        scenes=(3, 5, 2),
        teacher_steps=2,
        student_steps=2,
        batch=2,
        crop=(32, 48),
        scales=(1.0,),
        threshold=0.12,
        device="cpu",
    )
    progress = list(run_demo(settings))
    result = progress[-1].result
    assert result is not None
    assert tuple(result.students) == STUDENTS
    assert result.labels == 5
    assert result.label_bytes == sum(p.stat().st_size for p in (tmp_path / "auto/labels").rglob("*.png"))
    *_, judged = evaluate_labels(tmp_path / "auto", tmp_path / "scenes/labels_fine/train_extra", load_schema("scenes"))
    assert judged.scores() == result.auto
    assert 0.5 < result.coarse.coverage < 0.9
    assert json.loads((tmp_path / "summary.json").read_text())["auto"]["precision"] == result.auto.precision
    with Image.open(tmp_path / "labels.png") as picture:
        assert picture.width > 4 * 64

    again = list(run_demo(settings))
    assert again[-1].result is not None
    assert again[-1].result.students == result.students
    assert again[-1].result.auto == result.auto
    assert not [p for p in again if p.stage.endswith("training") and p.done < p.total], "trained again"
