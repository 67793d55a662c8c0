"""What label_speed.py labels, and with which teachers.

torch is imported only where a teacher is made: the process that measures others stays small, for a child's peak of
memory counts from what its parent had.
"""

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

SCALES = (0.5, 1.0, 2.0)
SUFFIXES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class Case:
    """A network and a size of image."""

    name: str
    network: str
    encoder: str | None
    size: tuple[int, int]
    """(height, width)."""
    images: int
    """How many are labelled, where nothing else is asked for."""

    @property
    def title(self) -> str:
        """For the head of its column."""
        return f"{self.encoder or self.network}, {self.size[1]}x{self.size[0]}"


CASES = {
    case.name: case
    for case in (
        Case("hrnet-small", "hrnet-ocr", None, (360, 480), 4),
        Case("hrnet-large", "hrnet-ocr", None, (512, 1024), 2),
        Case("light", "deeplabv3plus", "tf_efficientnet_lite0", (1080, 1920), 6),
    )
}


@dataclass(frozen=True)
class Prepared:
    """A case's files."""

    images: Path
    teacher: str
    weights: Path | None

    @property
    def arguments(self) -> list[str]:
        """As `label` and the benchmark's own scripts take them."""
        weights = [] if self.weights is None else ["--weights", str(self.weights)]
        scales = ",".join(f"{scale:g}" for scale in SCALES)
        return ["--images", str(self.images), "--teacher", self.teacher, *weights, "--scales", scales]


def prepare(case: Case, root: Path, count: int, photographs: Path | None, teacher: Path | None) -> Prepared:
    """Write a case's images, and its teacher where none is given.

    Args:
        case: the case.
        root: an empty folder.
        count: number of images.
        photographs: folder of images to take, subfolders too, brought to the case's size; generated scenes without it.
        teacher: weights in the public layout for hrnet-ocr, a checkpoint for others; random weights without it.

    Raises:
        ValueError: there are not so many photographs.
    """
    images = root / "images"
    images.mkdir()
    if photographs is None:
        _write_scenes(images, case.size, count)
    else:
        found = sorted(path for path in photographs.rglob("*") if path.suffix.lower() in SUFFIXES)[:count]
        if len(found) < count:
            raise ValueError(f"{photographs}: has {len(found)} images, expected {count} at least")
        for number, path in enumerate(found):
            with Image.open(path) as photograph:
                photograph.convert("RGB").resize(case.size[::-1]).save(images / f"{number:04}.png", compress_level=1)
    file = _random_teacher(case, root) if teacher is None else teacher.absolute()
    return Prepared(images, *(("hrnet-ocr", file) if case.network == "hrnet-ocr" else (str(file), None)))


def _write_scenes(folder: Path, size: tuple[int, int], count: int) -> None:
    from pipeline.scenes import generate_scene

    for index in range(count):
        image = generate_scene(0, index, size).image
        Image.fromarray(image).save(folder / f"{index:04}.png", compress_level=1)


def _random_teacher(case: Case, root: Path) -> Path:
    """A teacher of random weights: the public layout for hrnet-ocr, else a checkpoint."""
    import torch
    from random_teacher import random_network

    from storage.schema import load_schema
    from teacher.checkpoint import save_checkpoint
    from teacher.networks.registry import default_spec

    schema = load_schema("cityscapes")
    spec = default_spec(case.network, len(schema), case.encoder)  # type: ignore[arg-type] # the cases name networks
    network = random_network(spec, schema, SCALES)
    file = root / "teacher.pth"
    if case.network == "hrnet-ocr":
        torch.save({"state_dict": {f"module.{name}": value for name, value in network.state_dict().items()}}, file)
    else:
        save_checkpoint(file, network, spec, schema, {})
    return file
