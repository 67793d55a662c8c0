"""Networks that the user's own code makes, as teachers."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from storage.errors import CheckpointError, ImageError, SettingsError
from teacher.foreign.contract import ModelSettings
from teacher.foreign.factory import open_factory

CPU = ModelSettings(torch.device("cpu"), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))

SOURCE = """
import torch
from storage.errors import ImageError

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.last = torch.nn.Conv2d(3, 4, 1)
        self.drop = torch.nn.Dropout()
        self.labels = ["a", "b", "c", "d"]

    def forward(self, images):
        return {"aux": images, "out": self.drop(self.last(images))}

def make(device):
    torch.manual_seed(1)
    return Net().to(device)

def other(device):
    torch.manual_seed(2)
    return Net().to(device)

def function(device):
    return lambda images: torch.cat([images, images], dim=1)

def fails(device):
    return 1 / 0

def fails_later(device):
    def predict(images):
        if images.shape[-1] > 100:
            raise KeyError("too wide")
        if images.shape[-2] > 100:
            raise ImageError("too high")
        return images
    return predict

def noise(device):
    return lambda images: torch.rand_like(images)

def text(device):
    return "no network"

def gives_text(device):
    return lambda images: "no scores"

def bad_labels(device):
    network = make(device)
    network.labels = "abcd"
    return network

value = 3
"""


@pytest.fixture
def write_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """Write a module into the current folder and return its name, another each time; all is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    made: list[str] = []

    def write(source: str) -> str:
        name = f"networks_of_a_test_{tmp_path.name}_{len(made)}".replace("-", "_")
        (tmp_path / f"{name}.py").write_text(source)
        made.append(name)
        return name

    yield write
    for name in made:
        sys.modules.pop(name, None)


@pytest.fixture
def module(write_module: Callable[[str], str]) -> str:
    """A module of several factories, in the current folder."""
    return write_module(SOURCE)


@pytest.fixture
def pictures() -> Tensor:
    """Two images in [0, 1], of an odd size."""
    return torch.rand(2, 3, 45, 61, generator=torch.Generator().manual_seed(5))


def test_a_module_from_the_current_folder_predicts(module: str, pictures: Tensor) -> None:
    """What the factory made is put into evaluation mode, gives its "out", and names its labels."""
    model = open_factory(f"{module}:make", CPU)
    assert (model.name, model.labels) == ("Net", ("a", "b", "c", "d"))
    assert model.weight_bytes == 4 * (4 * 3 + 4)
    torch.manual_seed(1)
    expected = torch.nn.Conv2d(3, 4, 1)
    with torch.inference_mode():
        torch.testing.assert_close(model(pictures, 1.0), expected(pictures))
    half = open_factory(f"{module}:make", ModelSettings(CPU.device, "bf16", mean=CPU.mean, std=CPU.std))
    assert not torch.equal(half(pictures, 1.0), model(pictures, 1.0))


def test_any_callable_will_do(module: str, pictures: Tensor) -> None:
    """A function from images to scores is a model too; its labels are not known, and the digest says so."""
    model = open_factory(f"{module}:function", CPU)
    assert model.labels is None
    assert model.weight_bytes == 0
    assert torch.equal(model(pictures, 2.0), torch.cat([pictures, pictures], dim=1))
    assert model.facts()["known by"] == "the source of its module alone"


def test_the_digest_is_of_weights_and_source(module: str, write_module: Callable[[str], str]) -> None:
    """Other weights, another source or another mean are another teacher; the same are the same."""
    same = [open_factory(f"{module}:make", CPU).digest for _ in range(2)]
    changed = write_module(SOURCE + "# a remark\n")
    digests = {
        *same,
        open_factory(f"{module}:other", CPU).digest,
        open_factory(f"{changed}:make", CPU).digest,
        open_factory(f"{module}:make", ModelSettings(CPU.device)).digest,
    }
    assert len(digests) == 4


@pytest.mark.parametrize(
    ("factory", "error", "reason"),
    [
        ("absent", SettingsError, r"has no function 'absent'; it has ImageError, Net, bad_labels, .*make"),
        ("value", SettingsError, "has no function 'value'"),
        ("fails", SettingsError, r"failed in .*\.py, line 27: ZeroDivisionError"),
        ("text", SettingsError, "gave str, expected a nn.Module"),
        ("gives_text", CheckpointError, "gives str, expected a tensor of scores"),
        ("noise", CheckpointError, "gives other scores each time"),
        ("bad_labels", CheckpointError, "its labels are abcd"),
        ("1x", SettingsError, "expected python:MODULE:FACTORY"),
        ("", SettingsError, "expected python:MODULE:FACTORY"),
    ],
)
def test_factories_that_make_no_model(module: str, factory: str, error: type[Exception], reason: str) -> None:
    """What is no factory, or makes nothing that predicts, is told with its line where it has one."""
    with pytest.raises(error, match=reason):
        open_factory(f"{module}:{factory}", CPU)


def test_failures_at_an_image_are_told_with_their_line(module: str) -> None:
    """What the code raises at an image says in which line; errors of autocoarse's own kinds stay as they are."""
    model = open_factory(f"{module}:fails_later", CPU)
    with pytest.raises(RuntimeError, match=r"failed in .*\.py, line 32: KeyError: 'too wide'"):
        model(torch.rand(1, 3, 20, 120), 1.0)
    with pytest.raises(ImageError, match=r"^too high$"):
        model(torch.rand(1, 3, 120, 20), 1.0)


def test_modules_that_cannot_be_imported(write_module: Callable[[str], str]) -> None:
    """An absent module is told with where it was looked for, one that fails with its line."""
    with pytest.raises(SettingsError, match=r"no module 'no_such_networks' where Python looks, nor in .*PYTHONPATH"):
        open_factory("no_such_networks.deep:make", CPU)
    broken = write_module("\n\nraise OSError('no weights')\n")
    with pytest.raises(SettingsError, match=r"cannot be imported, .*line 3: OSError: no weights"):
        open_factory(f"{broken}:make", CPU)
    needs = write_module("import no_such_library\n")
    with pytest.raises(SettingsError, match=r"cannot be imported, .*no_such_library"):
        open_factory(f"{needs}:make", CPU)
    with pytest.raises(SettingsError, match="is no module with a source of its own"):
        open_factory("sys:exit", CPU)
