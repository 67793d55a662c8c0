"""A process killed in the middle of labelling: nothing torn, nothing twice, nothing missing afterwards."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from storage.label_png import read_label_values
from storage.ledger import Ledger

IMAGES = 24

IN_FLIGHT = 5
"""Labels that may be on disk and not in the ledger yet: what the queue of writes holds, at a batch of 1."""


@pytest.mark.parametrize("kill_after", [1, 9])
def test_a_killed_run_is_finished_by_the_same_command(
    tmp_path: Path,
    tiny_teacher: Path,
    make_image: Callable[..., object],
    slowly: Callable[[float, int], dict[str, str]],
    kill_after: int,
) -> None:
    """Kill -9, then the same command: labels byte for byte those of an undisturbed run, and none is made twice."""
    for number in range(IMAGES):
        make_image(tmp_path / f"images/{number % 3}/{number}.png", (120, 160), number)
    command = [str(Path(sys.executable).with_name("autocoarse")), "label"]
    command += ["--images", str(tmp_path / "images"), "--teacher", str(tiny_teacher), "--scales", "0.5,1,2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, "--out", str(tmp_path / "whole")], check=True, env=environment, capture_output=True)

    out = tmp_path / "killed"
    process = subprocess.Popen([*command, "--out", str(out)], env=slowly(0.15, IMAGES - 4), stderr=subprocess.PIPE)
    while len(list(out.rglob("labels/**/*.png"))) < kill_after:
        assert process.poll() is None, process.communicate()
        time.sleep(0.001)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    left = list(out.rglob("labels/**/*.png"))
    assert kill_after <= len(left) < IMAGES, "the kill must have come in the middle"
    for path in left:
        read_label_values(path)

    with Ledger(out / "ledger.sqlite") as ledger:  # to be written: a commit that was cut off is rolled back
        committed = {path: path.stat().st_mtime_ns for path in (out / "labels" / f"{e.key}.png" for e in ledger)}
    assert len(committed) >= len(left) - IN_FLIGHT

    arguments = [*command, "--out", str(out), "--json"]
    done = subprocess.run(arguments, check=True, env=environment, capture_output=True, text=True)
    result = json.loads(done.stdout)
    assert (result["skipped"], result["labelled"]) == (len(committed), IMAGES - len(committed))
    assert {path: path.stat().st_mtime_ns for path in committed} == committed
    whole = {p.relative_to(tmp_path / "whole"): p.read_bytes() for p in (tmp_path / "whole").rglob("labels/**/*.png")}
    again = {p.relative_to(out): p.read_bytes() for p in out.rglob("labels/**/*") if p.is_file()}
    assert again == whole
    assert len(whole) == IMAGES
    with Ledger(out / "ledger.sqlite", read_only=True) as ledger:
        assert [e.status for e in ledger] == ["done"] * IMAGES
