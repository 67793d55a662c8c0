"""The stored logits of a narrow network, which need nothing from outside the project."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest


def _writer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("write_golden", Path(__file__).with_name("write_golden.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("scales", ["two", "five"])
def test_fused_logits_are_as_stored(scales: str) -> None:
    """Network, resizing and blend together give the logits that were stored, at an odd image size."""
    writer = _writer()
    computed = writer.compute(writer.SCALES[scales])
    with np.load(writer.FILE) as stored:
        assert computed.shape == stored[scales].shape
        np.testing.assert_allclose(computed, stored[scales], rtol=0, atol=writer.TOLERANCE)
