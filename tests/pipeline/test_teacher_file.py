"""Describing a teacher with its attention: what it is called by, wherever the description lies."""

import tomllib
from pathlib import Path

import pytest

from pipeline.teacher_file import describe_with_attention
from storage.errors import SettingsError
from teacher.description import read_description


def test_paths_in_the_folder_are_said_from_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file beside the attention is called by its name, one elsewhere by its whole path, and a name stays a name."""
    (tmp_path / "out").mkdir()
    for name in ("out/model.onnx", "other.onnx", "classes.json"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    attention = Path("out/attention.safetensors")
    beside = tomllib.loads(describe_with_attention("onnx:out/model.onnx", None, "camvid", attention).decode())
    assert beside == {"teacher": {"model": "onnx:model.onnx", "schema": "camvid", "attention": "attention.safetensors"}}
    away = tomllib.loads(describe_with_attention("onnx:other.onnx", None, "classes.json", attention).decode())
    assert away["teacher"]["model"] == f"onnx:{tmp_path}/other.onnx"
    assert away["teacher"]["schema"] == f"{tmp_path}/classes.json"
    named = tomllib.loads(describe_with_attention("hrnet-ocr", Path("other.onnx"), None, attention).decode())
    assert named["teacher"]["model"] == "hrnet-ocr"
    assert named["teacher"]["weights"] == f"{tmp_path}/other.onnx"


def test_a_description_is_gone_on_with(tmp_path: Path) -> None:
    """What a description says stays in it, and its paths lead where they did."""
    (tmp_path / "model.onnx").touch()
    file = tmp_path / "given.toml"
    file.write_text(
        '[teacher]\nmodel = "onnx:model.onnx"\nschema = "camvid"\nlabels = ["heaven", "road"]\nmean = [0.5, 0.5, 0.5]\n'
        '[classes]\nheaven = "sky"\nroad = "road"\n'
    )
    (tmp_path / "out").mkdir()
    made = tmp_path / "out/teacher.toml"
    made.write_bytes(describe_with_attention(str(file), None, None, tmp_path / "out/attention.safetensors"))
    before, after = read_description(file), read_description(made)
    assert before.teacher is not None
    attended = before.teacher.model_copy(update={"attention": str(tmp_path / "out/attention.safetensors")})
    assert after == before.model_copy(update={"teacher": attended})


def test_several_teachers_have_an_attention_each(tmp_path: Path) -> None:
    """An attention is of one teacher; for several together the way is named."""
    file = tmp_path / "several.toml"
    file.write_text('[ensemble]\nmembers = ["one.pt", "two.pt"]\n')
    with pytest.raises(SettingsError, match="each"):
        describe_with_attention(str(file), None, None, tmp_path / "attention.safetensors")
