"""Write `training_trace.json`: the loss of each of 20 steps of two recipes, on images that integer arithmetic makes.

Run `python tests/golden/write_training_trace.py` from the project's root, and say in the commit why the trace changed.
It guards the whole recipe: which crops are drawn, how they are augmented, the loss and its weights, the optimiser, the
learning rate's course. A change of any of these moves the trace by far more than TOLERANCE.

Float32 sums come in another order with other thread counts, processors or versions of torch; training makes such
differences grow, so the learning rates are low. One thread against two moved the losses by at most 0.0009; the
weight of each scale's own loss at 0.06 instead of 0.05 moves the first by 1 %. Crops are scaled in whole numbers, as
nearly everywhere: where torchvision does it in floats, as on x86 without AVX2, colours differ by one in 255, and that
alone moves the losses by up to 0.014.
"""

import json
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from PIL import Image

from pipeline.training import train
from pipeline.training_settings import TrainSettings

FILE = Path(__file__).with_name("training_trace.json")
TOLERANCE = 0.01
"""Of each loss, absolute; the losses are of the order of 1."""

RECIPES: dict[str, dict[str, Any]] = {
    "adamw and cross entropy": {"learning_rate": 1e-4},
    "sgd and rmi": {"optimizer": "sgd", "learning_rate": 5e-4, "loss": "rmi", "cutmix": 0.5, "strong": True},
}
CLASSES = {"classes": [{"name": n, "color": [40 * i, 90, 200]} for i, n in enumerate(("sky", "road", "post"))]}


def write_images(root: Path, name: str, count: int, blank: int) -> None:
    """Write images of 120x90 with a horizon and a post, and their labels; of every row, `blank` columns have none."""
    rows, columns = np.mgrid[0:90, 0:120]
    for number in range(count):
        label = (rows > 40 + 3 * number + columns // 17).astype(np.uint8)
        label[20:80, 30 + 9 * number : 36 + 9 * number] = 2
        texture = (rows * 7 + columns * 13 + number * 29) % 61
        image = np.stack([label * 80 + texture, 60 + texture, 200 - label * 60 - texture], axis=-1).astype(np.uint8)
        label[:, 100 - blank : 100] = 255
        for kind, values in (("images", image), ("labels", label)):
            folder = root / f"{name}_{kind}"
            folder.mkdir(exist_ok=True)
            Image.fromarray(values).save(folder / f"{name}{number}.png")


def trace(recipe: dict[str, Any]) -> list[float]:
    """The loss of each of 20 steps."""
    whole_numbers = mock.patch("torch.backends.cpu.get_cpu_capability", return_value="AVX2")
    with tempfile.TemporaryDirectory() as folder, whole_numbers:
        root = Path(folder)
        write_images(root, "fine", 4, 4)
        write_images(root, "auto", 5, 40)
        (root / "classes.json").write_text(json.dumps(CLASSES))
        places = {f"{n}_{k}": root / f"{n}_{k}" for n in ("fine", "auto") for k in ("images", "labels")}
        settings = TrainSettings.checked(
            **places,
            classes=str(root / "classes.json"),
            encoder="resnet10t",
            steps=20,
            crop=(64, 80),
            batch=4,
            checkpoint_every=1,
            keep=1,
            workers=0,
            device="cpu",
            out=root / "out",
            **recipe,
        )
        return [progress.figures.loss for progress in train(settings) if progress.figures is not None]


if __name__ == "__main__":
    FILE.write_text(json.dumps({name: trace(recipe) for name, recipe in RECIPES.items()}, indent=1) + "\n")
