"""Bytes: the mission's arithmetic, and what a folder really takes."""

import os
from pathlib import Path

import pytest

from storage.budget import LabelGroup, estimate_label_bytes, free_bytes, ledger_bytes, measure_bytes
from storage.errors import MissingFileError
from storage.ledger import Entry, Ledger


def test_twenty_thousand_full_hd_images_take_terabytes_as_soft_labels() -> None:
    """Soft labels of 20,000 images of 1920x1080 with 19 classes take 3.15 TB in fp32 and half of it in fp16."""
    estimate = estimate_label_bytes([(1080, 1920)], 20_000, 19)
    assert estimate.soft_fp32_bytes == 20_000 * 1080 * 1920 * 19 * 4 == 3_151_872_000_000
    assert estimate.soft_fp16_bytes * 2 == estimate.soft_fp32_bytes
    assert 300e6 < estimate.hard_png_bytes < 2e9


def test_mixed_sizes_are_averaged() -> None:
    """A sample of sizes stands for all images."""
    estimate = estimate_label_bytes([(10, 10), (10, 30)], 4, 2)
    assert estimate.soft_fp32_bytes == 4 * 200 * 2 * 4


def write(root: Path, sizes: dict[str, int]) -> None:
    """Write files of so many bytes."""
    for name, size in sizes.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x" * size)


def test_the_bytes_of_a_run_are_told_by_kind(tmp_path: Path) -> None:
    """Labels, what is kept beside them, the ledger with its journal, and all else: every file counts once."""
    write(
        tmp_path,
        {
            "labels/a/x.png": 5,
            "labels/notes.txt": 7,
            "soft/h1w1/c.0.0.0.0": 11,
            "soft/zarr.json": 13,
            "ledger.sqlite": 17,
            "ledger.sqlite-journal": 19,
            "settings.toml": 23,
            "preview.png": 29,
            ".partial/.y.partial": 31,
        },
    )
    found = measure_bytes(tmp_path)
    assert (found.labels, found.label_bytes, found.store_bytes, found.ledger_bytes) == (1, 5, 24, 36)
    assert found.other_bytes == 7 + 23 + 29 + 31
    assert found.total_bytes == 5 + 24 + 36 + 90


def test_in_a_plain_folder_every_png_is_a_label_and_every_file_counts(tmp_path: Path) -> None:
    """A folder that is no run has no ledger and no store, whatever its files are called."""
    write(tmp_path, {"soft/x.png": 5, "y.PNG": 3, "ledger.sqlite": 7})
    found = measure_bytes(tmp_path)
    assert (found.labels, found.label_bytes, found.other_bytes, found.total_bytes) == (2, 8, 7, 15)
    assert (found.store_bytes, found.ledger_bytes) == (0, 0)


def test_labels_are_told_by_their_topmost_folder_and_the_largest_by_name(tmp_path: Path) -> None:
    """Groups by the first folder below the labels, and the five largest labels with the largest first."""
    write(tmp_path, {f"a/{i}/x.png": 10 * i for i in range(1, 8)} | {"b/y.png": 1, "z.png": 2})
    found = measure_bytes(tmp_path)
    assert found.folders == {"a": LabelGroup(7, 280), "b": LabelGroup(1, 1), ".": LabelGroup(1, 2)}
    assert found.largest == tuple((f"a/{i}/x.png", 10 * i) for i in (7, 6, 5, 4, 3))
    assert found.sizes == (1, 2, 10, 20, 30, 40, 50, 60, 70)


def test_quantiles_are_sizes_of_labels_that_are_there(tmp_path: Path) -> None:
    """The median of ten is the fifth, nine of ten are at most the ninth, and of none there is no size."""
    assert measure_bytes(tmp_path).quantile(0.5) is None
    write(tmp_path, {f"{i}.png": i for i in range(1, 11)})
    found = measure_bytes(tmp_path)
    assert [found.quantile(share) for share in (0, 0.5, 0.9, 1)] == [1, 5, 9, 10]


@pytest.mark.parametrize("classes", [11, 65])
def test_the_model_of_a_ledger_is_near_a_ledger(tmp_path: Path, classes: int) -> None:
    """Five hundred entries with keys of usual length take what the model says, within a quarter."""
    entries = [
        Entry(
            key=f"train/city/city_{i:06d}_000019",
            status="done",
            settings_digest="a" * 16,
            image_bytes=2_000_000,
            image_modified_ns=1_700_000_000_000_000_000 + i,
            image_sha256="b" * 64,
            height=1080,
            width=1920,
            ignored=90_000,
            bytes=33_000,
            modified_ns=1_700_000_000_000_000_000 + i,
            sha256="c" * 64,
            counts=(100_000,) * classes,
            seconds=1.2345678,
        )
        for i in range(500)
    ]
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.commit(entries)
    assert ledger_bytes(500, classes) == pytest.approx((tmp_path / "ledger.sqlite").stat().st_size, rel=0.25)


def test_a_run_at_work_is_measured_without_what_is_gone_by_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that goes while it is looked at is passed over."""
    for name in ("labels/x.png", ".partial/.y.partial", "ledger.sqlite", "ledger.sqlite-journal"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"123")
    real = Path.lstat

    def lstat(self: Path) -> os.stat_result:
        if self.name == "ledger.sqlite-journal":
            self.unlink()
        return real(self)

    monkeypatch.setattr(Path, "lstat", lstat)
    found = measure_bytes(tmp_path)
    assert (found.labels, found.label_bytes, found.ledger_bytes, found.total_bytes) == (1, 3, 3, 9)


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    """Nothing is measured where nothing is."""
    with pytest.raises(MissingFileError, match="no run or label folder"):
        measure_bytes(tmp_path / "gone")


def test_free_space_of_a_folder_to_come_is_that_of_its_disk(tmp_path: Path) -> None:
    """A folder that does not exist yet is looked up where it would be made."""
    assert free_bytes(tmp_path / "a" / "b") > 0
