"""What labels do not depend on: batches, threads, order, company; but for pixels that rounding decides."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from pipeline import teacher_decider
from pipeline.labelling import LabelRun
from pipeline.settings import LabelSettings
from storage.image_reader import read_image
from storage.label_png import read_label_values
from storage.ledger import Ledger
from teacher import Teacher, load_teacher
from teacher.transfer import UploadsAhead

NEAR = 1e-3
"""How near to its threshold, or to the second class, a pixel is that rounding may decide."""
SIZES = ((48, 64), (40, 56))
SCALES = (0.5, 1.0, 2.0)

Labels = dict[str, npt.NDArray[np.uint8]]


@pytest.fixture
def label(tmp_path: Path, tiny_teacher: Path, make_image: Callable[..., object]) -> Callable[..., Labels]:
    """Label six images of two sizes in a run of the given settings; gives the labels by key."""
    for number in range(6):
        make_image(tmp_path / f"images/{number}.png", SIZES[number % 2], number)

    def run(**settings: Any) -> Labels:
        out = tmp_path / f"run-{len([*tmp_path.iterdir()])}"
        wanted = {"images": tmp_path / "images", "scales": SCALES, **settings}
        with LabelRun(LabelSettings(teacher=str(tiny_teacher), out=out, device="cpu", **wanted)) as made:
            assert all(entry.status == "done" for entry in made)
        return {path.stem: read_label_values(path) for path in made.workspace.labels.rglob("*.png")}

    return run


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets torch's threads, and puts them back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def in_doubt(teacher: Teacher, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Pixels that rounding may decide: near to the threshold of 0.5, or between two classes."""
    first, second = teacher.logits(image, SCALES).double().softmax(dim=0).topk(2, dim=0).values
    return (((first - 0.5).abs() < NEAR) | (first - second < NEAR)).numpy()


def check_same(tmp_path: Path, tiny_teacher: Path, one: Labels, other: Labels) -> None:
    """Both have the same labels but where rounding decides."""
    teacher = load_teacher(tiny_teacher)
    assert one.keys() == other.keys()
    for key, values in one.items():
        differs = values != other[key]
        assert not (differs & ~in_doubt(teacher, read_image(tmp_path / f"images/{key}.png"))).any()


def test_batches_change_nothing(label: Callable[..., Labels], tmp_path: Path, tiny_teacher: Path) -> None:
    """One image at a time, or up to four of one size."""
    check_same(tmp_path, tiny_teacher, label(), label(batch=4))


def test_threads_change_nothing(tiny_teacher: Path, threads: Callable[[int], None]) -> None:
    """A layer that one thread computes, or two."""
    teacher = load_teacher(tiny_teacher)
    image = np.random.default_rng(1).integers(0, 256, (96, 128, 3), np.uint8)
    found = []
    for count in (1, 2):
        threads(count)
        found.append(teacher.label([image], SCALES, 0.5)[0])
    assert not ((found[0] != found[1]) & ~in_doubt(teacher, image)).any()


def test_what_is_kept_changes_nothing(label: Callable[..., Labels]) -> None:
    """With confidence kept every pixel is decided, without it most are known before: to the last pixel the same."""
    plain, kept, top2 = label(), label(keep="confidence"), label(keep="top2")
    for key, values in plain.items():
        assert np.array_equal(values, kept[key])
        assert np.array_equal(values, top2[key])


def test_order_and_company_change_nothing(label: Callable[..., Labels], tmp_path: Path) -> None:
    """The same images under names that turn their order round, among others: the same labels to the last pixel."""
    for number in range(6):
        (tmp_path / f"turned/{9 - number}.png").parent.mkdir(exist_ok=True)
        (tmp_path / f"turned/{9 - number}.png").write_bytes((tmp_path / f"images/{number}.png").read_bytes())
    (tmp_path / "turned/0.png").write_bytes((tmp_path / "images/3.png").read_bytes())
    straight, turned = label(), label(images=tmp_path / "turned")
    for key, values in straight.items():
        assert np.array_equal(values, turned[f"{9 - int(key)}"])


def test_what_does_not_fit_is_labelled_in_tiles_and_says_so(
    tmp_path: Path, tiny_teacher: Path, make_image: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told before the first image, by the network's measured memory: no error has to happen."""
    make_image(tmp_path / "images/large.png", (500, 700), 1)
    make_image(tmp_path / "images/small.png", (60, 80), 2)
    monkeypatch.setattr(teacher_decider, "room_on", lambda _: 160_000_000)
    wanted = LabelSettings(
        images=tmp_path / "images", teacher=str(tiny_teacher), out=tmp_path / "run", scales=(1.0, 2.0)
    )
    with LabelRun(wanted) as run:
        entries = {entry.key: entry for entry in run}
        assert run.summary.stepped_down == 1
    assert "in tiles of" in entries["large"].reason
    assert entries["small"].reason == ""
    with Ledger(tmp_path / "run/ledger.sqlite", read_only=True) as ledger:
        assert {entry.key for entry in ledger if entry.reason} == {"large"}
    labels = [read_label_values(path) for path in (tmp_path / "run/labels").rglob("*.png")]
    assert {label.shape for label in labels} == {(500, 700), (60, 80)}


@pytest.mark.parametrize("batch", [1, 4])
def test_labels_do_not_depend_on_images_that_are_sent_ahead(
    label: Callable[..., Labels], batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where each batch is sent while the one before it is decided, as on CUDA, labels are the same to the bit."""
    usual = label(batch=batch)
    sent: list[int] = []
    real = UploadsAhead.expect

    def expect(self: UploadsAhead, images: list[npt.NDArray[np.uint8]]) -> None:
        sent.append(len(images))
        real(self, images)

    monkeypatch.setattr(UploadsAhead, "expect", expect)
    monkeypatch.setattr(Teacher, "looks_ahead", property(lambda _: True))
    ahead = label(batch=batch)
    assert sum(sent) == len(usual) - 1, "all but the first: neighbours differ in size"
    assert all(np.array_equal(ahead[key], values) for key, values in usual.items())
