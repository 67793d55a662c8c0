"""Exported programs and TorchScript as teachers: what they predict, and what is refused before anything is run."""

import io
import json
import math
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional

from storage.errors import CheckpointError, ImageError, MissingFileError, SettingsError
from teacher.foreign import archive
from teacher.foreign.contract import ModelSettings
from teacher.foreign.exported import open_exported
from teacher.foreign.program_guards import Guard

CPU = ModelSettings(torch.device("cpu"), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
BATCH_AND_SIDES = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
Changes = dict[str, bytes | None]


class Small(nn.Module):
    """Half the size, a part without gradients, a part in full precision, and back to about half the size."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.last = nn.Conv2d(8, 5, 1)
        self.register_buffer("shift", torch.linspace(0, 1, 8).view(1, 8, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Scores (batch, 5, h, w)."""
        features = functional.relu(self.norm(self.first(images)))
        with torch.no_grad():
            coarse = functional.avg_pool2d(features + self.shift, 2)
        with torch.autocast("cpu", enabled=False):
            large = functional.interpolate(coarse, size=(features.shape[-2], features.shape[-1]), mode="bilinear")
        left, right = torch.cat([features, large]).chunk(2)
        return self.last(left + right)  # type: ignore[no-any-return] # modules return Any


def export(
    network: nn.Module,
    shape: tuple[int, ...] = (2, 3, 32, 48),
    axes: Any = BATCH_AND_SIDES,
    *,
    decomposed: bool = False,
) -> bytes:
    """Export a network as torch does, or taken apart into its core operators."""
    program = torch.export.export(network.eval(), (torch.zeros(shape),), dynamic_shapes=(axes,))
    program = program.run_decompositions() if decomposed else program
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={"autocoarse.labels": json.dumps(list("abcde")), "other": "x"})
    return file.getvalue()


def script(network: nn.Module) -> bytes:
    """Save a network as TorchScript."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(network.eval()), file)  # type: ignore[no-untyped-call]
    return file.getvalue()


def changed(content: bytes, changes: Changes) -> bytes:
    """An archive with members replaced, added or, where None, left out."""
    source, file = zipfile.ZipFile(io.BytesIO(content)), io.BytesIO()
    members = {name.partition("/")[2]: source.read(name) for name in source.namelist()} | changes
    with zipfile.ZipFile(file, "w") as made:
        for name, each in members.items():
            if each is not None:
                made.writestr(f"archive/{name}", each)
    return file.getvalue()


def program_text(content: bytes) -> dict[str, Any]:
    """The text of an exported program."""
    with zipfile.ZipFile(io.BytesIO(content)) as source:
        return json.loads(source.read("archive/models/model.json"))  # type: ignore[no-any-return] # parsed JSON


def with_text(content: bytes, text: dict[str, Any]) -> bytes:
    """An exported program with another text."""
    return changed(content, {"models/model.json": json.dumps(text).encode()})


@pytest.fixture(scope="module")
def small() -> Small:
    """A network with weights that are none of the start."""
    torch.manual_seed(2)
    network = Small()
    network.norm.running_mean.uniform_(-0.2, 0.2)  # type: ignore[union-attr] # it has one
    return network.eval()


@pytest.fixture(scope="module")
def exported(small: Small) -> bytes:
    """The network, exported for images of any size."""
    return export(small)


@pytest.fixture(scope="module")
def scripted() -> bytes:
    """A network as TorchScript."""
    return script(Table())


Save = Callable[[bytes], Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Write a file and return its path."""

    def write(content: bytes) -> Path:
        path = tmp_path / "network.pt2"
        path.write_bytes(content)
        return path

    return write


@pytest.fixture
def pictures() -> Tensor:
    """Two images in [0, 1], of an odd size."""
    return torch.rand(2, 3, 45, 61, generator=torch.Generator().manual_seed(5))


def test_logits_are_exactly_the_networks(save: Save, exported: bytes, small: Small, pictures: Tensor) -> None:
    """The program's operators are those of the network, so its logits are the same bits, at any size and batch."""
    model = open_exported(save(exported), CPU)
    assert model.labels == tuple("abcde")
    assert model.weight_bytes == sum(tensor.nbytes for tensor in small.state_dict().values()) + small.shift.nbytes
    for images in (pictures, pictures[:1], pictures[..., :40]):
        with torch.inference_mode():
            assert torch.equal(model(images, 0.5), small(images))


def test_half_precision_is_autocast(save: Save, exported: bytes, small: Small, pictures: Tensor) -> None:
    """In bf16 the program gives what the network gives under autocast."""
    model = open_exported(save(exported), ModelSettings(CPU.device, "bf16", mean=CPU.mean, std=CPU.std))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        expected = small(pictures).float()
    torch.testing.assert_close(model(pictures, 1.0), expected, rtol=0.02, atol=0.02)
    assert not torch.equal(model(pictures, 1.0), open_exported(save(exported), CPU)(pictures, 1.0))


def test_numbers_that_json_has_not_are_read(save: Save, pictures: Tensor) -> None:
    """Infinities and NaN among a program's numbers, as masks have them, are what they were."""

    class Masked(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            low = images.masked_fill(images < 0.3, -math.inf).masked_fill(images > 0.9, math.inf)
            return low.masked_fill((images > 0.5) & (images < 0.6), math.nan).clamp(-9, 9)

    model = open_exported(save(changed(export(Masked()), {"extra/autocoarse.labels": None})), CPU)
    assert torch.equal(model(pictures, 1.0).nan_to_num(), Masked()(pictures).nan_to_num())
    assert model(pictures, 1.0).isnan().any()


def test_a_program_of_one_size_gets_images_of_that_size(save: Save, small: Small, pictures: Tensor) -> None:
    """Images are stretched to the size that the program was exported with, one by one where its batch is one."""
    model = open_exported(save(export(small, (1, 3, 32, 48), {})), CPU)
    assert model.facts()["sizes"] == "48x32 pixels, one image at a time, to which images are stretched"
    assert model(pictures, 1.0).shape == (2, 5, 16, 24)
    with pytest.raises(SettingsError, match="choose the scales 1"):
        model(pictures, 0.5)


def test_multiples_of_a_number_are_kept_to(save: Save, pictures: Tensor) -> None:
    """Where a program takes multiples of 8 from 16 to 512, images go to the nearest, and none out of that range."""

    class Blocks(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return functional.pixel_unshuffle(images, 8)

    sides = Dim("rows", min=2, max=64) * 8, Dim("columns", min=2, max=64) * 8
    path = save(
        changed(export(Blocks(), axes={0: Dim("batch"), 2: sides[0], 3: sides[1]}), {"extra/autocoarse.labels": None})
    )
    model = open_exported(path, CPU)
    assert "a multiple of 8 from 16 to 512" in model.facts()["sizes"]
    assert model(pictures, 1.0).shape == (2, 192, 6, 8)
    with pytest.raises(ImageError, match=r"an image of 61x45 pixels at scale 1\.0 is of no use"):
        open_exported(path, ModelSettings(CPU.device, native=True))(pictures, 1.0)
    with pytest.raises(ImageError, match="an image of 700x40 pixels"):
        model(torch.rand(1, 3, 40, 700), 1.0)


def test_a_program_holds_where_it_says(save: Save) -> None:
    """A program that was exported for images as wide as high is not run on others."""

    class Wide(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images * 2 if images.shape[-1] <= 2 * images.shape[-2] else images * 0

    path = save(changed(export(Wide()), {"extra/autocoarse.labels": None}))
    model = open_exported(path, CPU)
    assert model(torch.rand(1, 3, 32, 64), 1.0).shape == (1, 3, 32, 64)
    with pytest.raises(ImageError, match="does not hold for images of 90x32 pixels"):
        model(torch.rand(1, 3, 32, 90), 1.0)


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("L['images'].size()[2] >= 32", True),
        ("not (L['images'].size()[2] % 16 != 0 or L['images'].size()[3] < 48)", True),
        ("1 + (((-1) + L['images'].size()[3]) // 2) == 24 and max(2, 3) > 2", True),
        ("L['images'].size()[2] // (L['images'].size()[3] - 48) > 0", False),
        ("L['images'].size()[0] != 1", True),
    ],
)
def test_conditions_are_arithmetic(text: str, holds: bool) -> None:
    """Conditions on the sizes are computed; a division by zero is false, and the batch does not matter."""
    assert Guard(text).holds((1, 3, 32, 48)) is holds


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "L['images'].storage()[2] > 1",
        "L['images'].size()[7] > 1",
        "(lambda: 1)()",
        "9 ** 9 ** 9 > 1",
        "'a' < 'b'",
        "max() > 1",
        "(" * 300 + ")" * 300,
        "1 +",
    ],
)
def test_other_conditions_are_not_understood(text: str) -> None:
    """Whatever is no arithmetic on sizes is refused, and not evaluated."""
    with pytest.raises(ValueError, match=r"."):
        Guard(text)


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def torch_pickle(value: object) -> bytes:
    """What torch.save writes."""
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def test_example_images_are_not_unpickled(save: Save, exported: bytes, tmp_path: Path, pictures: Tensor) -> None:
    """What a program was exported with is a pickle, which nobody reads: code in it does not run."""
    content = changed(exported, {"data/sample_inputs/model.pt": torch_pickle(Payload(tmp_path / "ran"))})
    assert open_exported(save(content), CPU)(pictures, 1.0).shape[1] == 5
    assert not (tmp_path / "ran").exists()


def _pickled_weight(content: bytes, tmp_path: Path) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as source:
        config = json.loads(source.read("archive/data/weights/model_weights_config.json"))
    first = next(iter(config["config"].values()))
    first["use_pickle"] = True
    return changed(
        content,
        {
            "data/weights/model_weights_config.json": json.dumps(config).encode(),
            f"data/weights/{first['path_name']}": torch_pickle(Payload(tmp_path / "ran")),
        },
    )


def _other_operator(target: str) -> Callable[[bytes, Path], bytes]:
    def change(content: bytes, tmp_path: Path) -> bytes:
        text = program_text(content)
        node = text["graph_module"]["graph"]["nodes"][0]
        node["target"] = target
        node["inputs"] = [{"name": "", "arg": {"as_string": f"touch {tmp_path / 'ran'}"}, "kind": 1}]
        return with_text(content, text)

    return change


def _guard(content: bytes, tmp_path: Path) -> bytes:
    text = program_text(content)
    text["guards_code"] = [f"__import__('os').system('touch {tmp_path / 'ran'}')"]
    return with_text(content, text)


def _large_weight(content: bytes, tmp_path: Path) -> bytes:  # noqa: ARG001 - as the others
    with zipfile.ZipFile(io.BytesIO(content)) as source:
        config = json.loads(source.read("archive/data/weights/model_weights_config.json"))
    meta = next(iter(config["config"].values()))["tensor_meta"]
    meta["sizes"], meta["strides"] = [{"as_int": 10**12}], [{"as_int": 0}]
    return changed(content, {"data/weights/model_weights_config.json": json.dumps(config).encode()})


def _legacy(content: bytes, tmp_path: Path) -> bytes:
    pickled = torch_pickle(Payload(tmp_path / "ran"))
    return changed(content, {"data/weights/model_weights_config.json": None, "data/weights/model.pt": pickled})


def _compiled(content: bytes, tmp_path: Path) -> bytes:  # noqa: ARG001
    return changed(content, {"models/model.json": None, "data/aotinductor/model/code.so": b"\x7fELF"})


def _newer(content: bytes, tmp_path: Path) -> bytes:  # noqa: ARG001
    text = program_text(content)
    text["schema_version"]["major"] = 9
    return with_text(content, text)


def _old(content: bytes, tmp_path: Path) -> bytes:  # noqa: ARG001
    del content
    return changed(torch_pickle({}), {"data.pkl": None, "serialized_exported_program.json": b"{}"})


def _graph_of_nothing(content: bytes, tmp_path: Path) -> bytes:  # noqa: ARG001
    return with_text(content, {"schema_version": {"major": 8}, "graph_module": [1]})


def _deep(content: bytes, tmp_path: Path) -> bytes:  # noqa: ARG001
    return changed(content, {"models/model.json": b"[" * 200000})


HOSTILE: dict[str, tuple[Callable[[bytes, Path], bytes], str]] = {
    "pickled weight": (_pickled_weight, "is a Python object and no plain tensor"),
    "system call": (_other_operator("torch.os.system"), "uses 'torch.os.system', which is not among"),
    "unpickling": (_other_operator("torch.load"), "uses 'torch.load'"),
    "file": (_other_operator("torch.ops.aten.from_file.default"), "uses 'torch.ops.aten.from_file.default'"),
    "way out": (_other_operator("_operator.attrgetter"), "uses '_operator.attrgetter'"),
    "condition": (_guard, "which cannot be checked"),
    "large weight": (_large_weight, "more than its"),
    "pickled weights": (_legacy, "written by an older torch"),
    "compiled code": (_compiled, "holds compiled code, which is not run"),
    "newer form": (_newer, "written in form 9"),
    "older torch": (_old, "by torch 2.8 or older"),
    "no graph": (_graph_of_nothing, "no exported program that can be read"),
    "deep text": (_deep, "is no JSON"),
    "pickle of torch": (lambda _, tmp: torch_pickle(Payload(tmp / "ran")), "holds weights or Python objects"),
    "pickle": (lambda _, tmp: pickle.dumps(Payload(tmp / "ran")), "is no exported network"),
    "truncated": (lambda content, _: content[: len(content) // 2], "is no exported network"),
    "nothing": (lambda _, __: b"", "is no exported network"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_programs_are_refused(save: Save, exported: bytes, tmp_path: Path, case: str) -> None:
    """What would run code, or is no program, is refused with the reason, and nothing of it is run."""
    change, reason = HOSTILE[case]
    with pytest.raises(CheckpointError, match=reason):
        open_exported(save(change(exported, tmp_path)), CPU)
    assert not (tmp_path / "ran").exists()


def test_texts_that_torch_would_evaluate_are_only_texts(save: Save, exported: bytes, tmp_path: Path) -> None:
    """Expressions of sizes and names of values, which torch makes code of, are neither evaluated nor run."""
    text = json.dumps(program_text(exported))
    code = f"__import__('os').system('touch {tmp_path / 'ran'}')"
    text = text.replace("Symbol('s", f"{code} + Symbol('s").replace('"images"', json.dumps(f"images=({code})"))
    with zipfile.ZipFile(io.BytesIO(exported)) as source:
        assert "archive/models/model.json" in source.namelist()
    assert open_exported(save(changed(exported, {"models/model.json": text.encode()})), CPU).labels == tuple("abcde")
    assert not (tmp_path / "ran").exists()


class Two(nn.Module):
    """Of two images."""

    def forward(self, images: Tensor, more: Tensor) -> Tensor:
        """Their sum."""
        return images + more


class Classifier(nn.Module):
    """Of whole images."""

    def forward(self, images: Tensor) -> Tensor:
        """(batch, 3)."""
        return images.mean((2, 3))


class Double(nn.Module):
    """Of anything."""

    def forward(self, images: Tensor) -> Tensor:
        """The same, doubled."""
        return images * 2


def test_programs_of_other_inputs_are_refused(save: Save) -> None:
    """A program of two inputs, of other shapes, or to something else than scores, is refused with the reason."""
    images = torch.zeros(1, 3, 8, 8)
    for network, inputs, reason in (
        (Two(), (images, images), "is an exported program of other inputs: it takes 2"),
        (Double(), (torch.zeros(3, 8, 8),), r"of other inputs: it takes \(3, 8, 8\)"),
        (Double(), (torch.zeros(1, 4, 8, 8),), r"of other inputs: it takes \(1, 4, 8, 8\)"),
        (Double(), (torch.zeros(1, 3, 8, 8, dtype=torch.int64),), "of torch.int64"),
        (Double(), (torch.zeros(2, 3, 8, 8),), "takes exactly 2 images at a time"),
        (Classifier(), (images,), "gives 2 axes: expected scores"),
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.Dropout()).train(), (images,), "exported in training mode"),
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).train(), (images,), "training mode|changes its own"),
    ):
        file = io.BytesIO()
        torch.export.save(torch.export.export(network, inputs), file)
        with pytest.raises(CheckpointError, match=reason):
            open_exported(save(file.getvalue()), CPU)


def test_an_archive_that_would_become_far_larger_is_not_opened(
    save: Save, exported: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A member that is compressed to a thousandth is not read, whatever it is."""
    monkeypatch.setattr(archive, "MAX_TEXT_BYTES", 2**20)
    file = io.BytesIO(exported)
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as made:
        made.writestr("archive/models/other.json", bytes(2**21))
    with pytest.raises(CheckpointError, match="would become"):
        open_exported(save(file.getvalue()), CPU)


def test_an_absent_file_is_told(tmp_path: Path) -> None:
    """An absent file is told as such."""
    with pytest.raises(MissingFileError, match=r"absent\.pt2"):
        open_exported(tmp_path / "absent.pt2", CPU)


class Table(nn.Module):
    """Gives its scores in a table, and is one that torch compiles with branches and loops."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList([nn.Conv2d(3, 3, 3, padding=1) for _ in range(2)])
        self.norm = nn.BatchNorm2d(3)
        self.last = nn.Conv2d(3, 5, 1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Scores under "out"."""
        features = images
        for stage in self.stages:
            features = torch.relu(stage(features))
        scores = self.last(self.norm(features))
        large = functional.interpolate(scores, scale_factor=0.5, mode="bilinear", align_corners=False)
        return {"auxiliary": scores, "out": large}


def test_torchscript_gives_what_the_network_gives(save: Save, scripted: bytes, pictures: Tensor) -> None:
    """TorchScript is run as it is written, and of a table "out" is taken."""
    model = open_exported(save(scripted), CPU)
    assert model.name == "TorchScript"
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        expected = torch.jit.load(io.BytesIO(scripted))(pictures)["out"]  # type: ignore[no-untyped-call]
        for _ in range(3):
            torch.testing.assert_close(model(pictures, 1.0), expected)
    with pytest.raises(SettingsError, match="precision is bf16"):
        open_exported(save(scripted), ModelSettings(CPU.device, "bf16"))


class ReadsFile(nn.Module):
    """Reads a file whenever it is called."""

    def forward(self, images: Tensor) -> Tensor:
        """The images, and what the file holds."""
        return images + torch.from_file("/tmp/autocoarse-never", False, 1)  # noqa: S108 - nobody reads it


class Prints(nn.Module):
    """Prints."""

    def forward(self, images: Tensor) -> Tensor:
        """The images."""
        print("seen")  # noqa: T201 - compiled, and refused
        return images


class Remembers(nn.Module):
    """Changes itself."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def forward(self, images: Tensor) -> Tensor:
        """Other images each time."""
        self.count += 1
        return images * self.count


class Restores(nn.Module):
    """Runs code of its own when it is read."""

    @torch.jit.export
    def __getstate__(self) -> tuple[int, bool]:
        return 1, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[int, bool]) -> None:
        self.training = state[1]

    def forward(self, images: Tensor) -> Tensor:
        """The images."""
        return images


class Random(nn.Module):
    """Draws numbers."""

    def forward(self, images: Tensor) -> Tensor:
        """Noise."""
        return torch.rand_like(images)


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (ReadsFile(), "its code has 'from_file' in it"),
        (Restores(), "its code has '__setstate__' in it"),
        (Prints(), "uses 'prim::Print'"),
        (Remembers(), "uses 'prim::SetAttr'"),
        (Random(), "uses 'aten::rand_like'"),
        (Two(), "is a program of other inputs: it takes images: Tensor, more: Tensor"),
        (Classifier(), r"gives float32 \(1, 3\)"),
    ],
)
def test_torchscript_that_does_more_is_refused(save: Save, network: nn.Module, reason: str) -> None:
    """TorchScript that reaches a file, runs when it is read, prints, changes itself or draws numbers is refused."""
    with pytest.raises(CheckpointError, match=reason):
        open_exported(save(script(network)), CPU)


def _code(scripted: bytes, old: str, new: str) -> bytes:
    with zipfile.ZipFile(io.BytesIO(scripted)) as source:
        found = next(name for name in source.namelist() if name.endswith(".py") and old in source.read(name).decode())
        text = source.read(found).decode().replace(old, new)
    return changed(scripted, {found.partition("/")[2]: text.encode()})


def test_torchscript_cannot_reach_a_file_when_it_is_read(save: Save, scripted: bytes, tmp_path: Path) -> None:
    """A default value that would make a file, in whatever words, is found before torch evaluates it."""
    path = tmp_path / "ran"
    for call in (
        f'torch.from_file("{path}", True, 1)',
        f'torch . from_file ("{path}", True, 1)',
        f'ops.aten.from_file("{path}", True, 1)',
        f'getattr(torch, "from" "_fi" "le")("{path}", True, 1)',
        f'getattr( ops.aten, "x")("{path}")',
        f'ops.image.read_file("{path}")',
        "__torch__.torch.classes.evil.Maker()",
        f'torch.save(1, "{path}")',
    ):
        content = _code(scripted, "images: Tensor)", f"images: Tensor, more: Tensor={call})")
        with pytest.raises(CheckpointError, match="its code has"):
            open_exported(save(content), CPU)
    assert not path.exists()


def test_torchscript_pickles_may_only_name_tensors(save: Save, scripted: bytes, tmp_path: Path) -> None:
    """A pickle in a TorchScript archive that would make anything else is not unpickled."""
    ran = tmp_path / "ran"
    for member in ("data.pkl", "constants.pkl"):
        for content in (pickle.dumps(Payload(ran), protocol=2), pickle.dumps(Payload(ran), protocol=5)):
            with pytest.raises(CheckpointError, match="it is not unpickled"):
                open_exported(save(changed(scripted, {member: content})), CPU)
        with pytest.raises(CheckpointError, match="is no pickle"):
            open_exported(save(changed(scripted, {member: b"\xff\xfe"})), CPU)
    custom = b"\x80\x02c__torch__.torch.classes.evil\nMaker\n)\x81."
    with pytest.raises(CheckpointError, match=r"torch\.classes\.evil"):
        open_exported(save(changed(scripted, {"data.pkl": custom})), CPU)
    assert not ran.exists()
