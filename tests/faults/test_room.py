"""A budget and a disk that are too small: a clean stop, nothing torn, and the same files once there is room.

The command is run in this process where nothing asks for one of its own: each start of it takes seconds.
"""

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pytest
from click.testing import CliRunner

from cli.main import main
from storage.account import MARGIN
from storage.budget import measure_bytes
from storage.label_png import read_label_values
from storage.ledger import Ledger
from storage.soft_store import SoftStore

IMAGES = 60


@pytest.fixture
def command(tmp_path: Path, tiny_teacher: Path, make_image: Callable[..., object]) -> list[str]:
    """`label` on a set of noise, whose labels are large, with its confidence."""
    for number in range(IMAGES):
        make_image(tmp_path / f"images/{number % 3}/{number}.png", (96, 128), number)
    return [
        *("label", "--images", str(tmp_path / "images"), "--teacher", str(tiny_teacher)),
        *("--scales", "1", "--keep", "confidence", "--json"),
    ]


def run(command: list[str], out: Path, *more: str) -> tuple[int, dict[str, Any], str]:
    """Run the command; its exit code, its result and what it told."""
    done = CliRunner().invoke(main, [*command, "--out", str(out), *more], catch_exceptions=False)
    return done.exit_code, json.loads(done.stdout) if done.stdout else {}, done.stderr


def contents(out: Path) -> dict[str, bytes]:
    """All labels and chunks."""
    files = [*(out / "labels").rglob("*.png"), *(out / "soft").rglob("c.*")]
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in files}


def check_whole(out: Path) -> int:
    """Every file is whole, and each item that the ledger calls done has label and chunk; how many these are."""
    for path in (out / "labels").rglob("*.png"):
        read_label_values(path)
    assert not (out / ".partial").exists()
    store = SoftStore.find(out / "soft")
    assert store is not None
    with Ledger(out / "ledger.sqlite") as ledger:
        slots = ledger.slots()
        done = [entry for entry in ledger if entry.status == "done"]
    for entry in done:
        assert (out / f"labels/{entry.key}.png").stat().st_size == entry.bytes
        store.read(slots[entry.key], (entry.height, entry.width))
    return len(done)


def test_a_budget_of_half_the_need_is_never_passed(command: list[str], tmp_path: Path) -> None:
    """Exit 4 below the limit, warned before, told what would fit; with enough, the files of an unlimited run."""
    code, whole, _ = run(command, tmp_path / "whole")
    assert code == 0
    need = measure_bytes(tmp_path / "whole").total_bytes
    assert whole["used_bytes"] == pytest.approx(need, abs=8192), "the account is what lies on the disk"

    out, limit = tmp_path / "out", need // 2 + MARGIN
    code, result, told = run(command, out, "--budget", str(limit))
    assert code == 4
    assert measure_bytes(out).total_bytes <= limit
    made = check_whole(out)
    assert 0 < made < IMAGES
    assert (result["labelled"], result["left"], result["failed"]) == (made, IMAGES - made, 0)
    assert "used up" in result["stopped"]
    assert result["forecast_bytes"] == pytest.approx(need, rel=0.25)
    assert "warning: all files together may take" in told
    assert "would fit with" in told
    assert "--keep none" in told

    code, result, _ = run(command, out, "--budget", str(2 * need + MARGIN))
    assert (code, result["skipped"], result["stopped"]) == (0, made, None)
    assert contents(out) == contents(tmp_path / "whole")


def test_a_budget_without_room_for_anything_is_refused_at_once(command: list[str], tmp_path: Path) -> None:
    """Exit 4 with what is there and what to do; no label is made."""
    code, _, told = run(command, tmp_path / "out", "--budget", "10KB")
    assert code == 4
    assert "give a larger --budget" in told
    assert not (tmp_path / "out").exists()


class Peak:
    """The largest number of bytes that a folder had while a thread looked."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bytes, self._stop = folder, 0, threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        is_last = False
        while not is_last:
            is_last, found = self._stop.is_set(), 0  # it looks once at least, and at what is there in the end
            with contextlib.suppress(OSError):  # a folder may go while it is walked through
                for path in self.folder.rglob("*"):
                    with contextlib.suppress(OSError):
                        found += path.stat().st_size
            self.bytes = max(self.bytes, found)


def test_many_slots_and_failures_do_not_pass_the_budget(command: list[str], tmp_path: Path) -> None:
    """What the ledger grows by counts as well, and is refused before it is written."""
    for number in range(1500):
        (tmp_path / f"images/broken image with a rather long name {number}.png").write_bytes(b"no image")
    for more in ((), ("--keep", "none")):
        with Peak(tmp_path / "out") as peak:
            code, _, told = run(command, tmp_path / "out", "--budget", "250KB", *more)
        assert code == 4, told
        assert 0 < peak.bytes <= 250_000


def test_labels_that_are_made_again_do_not_pass_the_budget(
    command: list[str], tmp_path: Path, make_image: Callable[..., object]
) -> None:
    """While a label is replaced the old one is there as well; even then the limit holds."""
    out = tmp_path / "out"
    assert run(command, out)[0] == 0
    limit = measure_bytes(out).total_bytes + MARGIN + 4000
    for number in range(IMAGES):
        make_image(tmp_path / f"images/{number % 3}/{number}.png", (96, 128), 1000 + number)
    with Peak(out) as peak:
        code, _, told = run(command, out, "--budget", str(limit))
    assert code in (0, 4), told
    assert peak.bytes <= limit


def test_a_disk_that_fills_is_a_clean_stop(command: list[str], tmp_path: Path, small_disk: Path) -> None:
    """Exit 4, nothing torn; with more room the same command makes the files of an undisturbed run."""
    assert run(command, tmp_path / "whole")[0] == 0
    out = small_disk / "out"
    code, result, told = run(command, out)
    assert code == 4, told
    assert "No space left" in told or "full" in told
    made = check_whole(out)
    assert 0 < made < IMAGES
    assert result["left"] == IMAGES - made
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)  # noqa: S607
    code, result, _ = run(command, out)
    assert (code, result["skipped"]) == (0, made)
    assert contents(out) == contents(tmp_path / "whole")


def test_a_full_disk_for_temporary_files_is_told_before_anything_is_labelled(
    command: list[str], tmp_path: Path, small_disk: Path
) -> None:
    """A list of images for which TMPDIR has no room ends the run with what to do."""
    many = tmp_path / "images/many"
    many.mkdir()
    for number in range(20_000):
        (many / f"a name as long as those that cameras give, {number:06}.png").touch()
    done = subprocess.run(
        [str(Path(sys.executable).with_name("autocoarse")), *command, "--out", str(tmp_path / "out")],
        env={**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(small_disk)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 4, done.stderr
    assert f"no room in {small_disk}" in done.stderr
    assert "TMPDIR" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "out").rglob("*.png"))
