"""The stored course of two short trainings, which guards the recipe as a whole."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest


def _writer() -> ModuleType:
    path = Path(__file__).with_name("write_training_trace.py")
    spec = importlib.util.spec_from_file_location("write_training_trace", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["adamw and cross entropy", "sgd and rmi"])
def test_twenty_steps_have_the_stored_losses(recipe: str) -> None:
    """Each of 20 steps has the loss that was stored, within what float32 leaves open."""
    writer = _writer()
    stored = json.loads(writer.FILE.read_text())[recipe]
    assert len(stored) == 20
    assert writer.trace(writer.RECIPES[recipe]) == pytest.approx(stored, rel=0, abs=writer.TOLERANCE)
