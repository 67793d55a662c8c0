"""Bytes: the mission's arithmetic, and what a folder really takes."""

import os
from pathlib import Path

import pytest

from storage.budget import FolderBytes, estimate_label_bytes, free_bytes, measure_bytes
from storage.errors import MissingFileError


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


def test_only_labels_count_as_labels(tmp_path: Path) -> None:
    """In a run, the labels and all files are added up apart; in a plain folder every PNG is a label."""
    (tmp_path / "labels" / "a").mkdir(parents=True)
    (tmp_path / "labels" / "a" / "x.png").write_bytes(b"12345")
    (tmp_path / "ledger.sqlite").write_bytes(b"123")
    (tmp_path / "preview.png").write_bytes(b"1")
    run = measure_bytes(tmp_path)
    assert (run.labels, run.label_bytes, run.total_bytes) == (1, 5, 9)
    folder = measure_bytes(tmp_path / "labels")
    assert (folder.labels, folder.label_bytes, folder.total_bytes) == (1, 5, 5)


def test_a_run_at_work_is_measured_without_what_is_not_there_yet_or_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files still being written do not count, and one that goes while it is looked at is passed over."""
    for name in ("labels/x.png", ".partial/.y.partial", "ledger.sqlite", "ledger.sqlite-journal"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"123")
    real = Path.lstat

    def lstat(self: Path) -> os.stat_result:
        if self.name == "ledger.sqlite-journal":
            self.unlink()
        return real(self)

    monkeypatch.setattr(Path, "lstat", lstat)
    assert measure_bytes(tmp_path) == FolderBytes(labels=1, label_bytes=3, total_bytes=6)


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    """Nothing is measured where nothing is."""
    with pytest.raises(MissingFileError, match="no run or label folder"):
        measure_bytes(tmp_path / "gone")


def test_free_space_of_a_folder_to_come_is_that_of_its_disk(tmp_path: Path) -> None:
    """A folder that does not exist yet is looked up where it would be made."""
    assert free_bytes(tmp_path / "a" / "b") > 0
