"""Drivers that are killed or interrupted while others label for them."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from pipeline.labelling import LabelRun
from storage.ledger import Ledger


def test_a_driver_that_is_killed_is_started_again(
    cluster: Any,
    night: Any,
    tmp_path: Path,
) -> None:
    """Kill -9 of the command itself: the same command goes on, also while the workers still do what it had sent."""
    cluster.start_scheduler()
    slow = night.slow(0.3, 3)
    for _ in range(2):
        cluster.start_worker(*slow)
    driver = subprocess.Popen(night.command("--scheduler", cluster.address), env={**os.environ, "OMP_NUM_THREADS": "1"})
    while len(list((tmp_path / "run").rglob("labels/**/*.png"))) < 3:
        assert driver.poll() is None
        time.sleep(0.01)
    driver.kill()
    assert driver.wait() == -signal.SIGKILL
    night.go_on.touch()
    with LabelRun(night.settings(scheduler=cluster.address)) as run:
        assert run.plan.done_count < night.images
        list(run)
        assert run.summary.failed == 0
    night.check(run)


def test_ctrl_c_is_for_the_command_and_nothing_listens_beyond_this_machine(
    night: Any, tmp_path: Path, slowly: Callable[[float, int], dict[str, str]], go_on: Path
) -> None:
    """A terminal sends it to every process; what workers have is finished and recorded, and none of them stays."""
    for number in range(60):
        (tmp_path / f"images/0/more{number}.png").write_bytes((tmp_path / "images/0/00.png").read_bytes())
    driver = subprocess.Popen(
        night.command("--workers", "2"),
        env=slowly(0.2, 10),
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a job in the background has none
    )
    while len(list((tmp_path / "run").rglob("labels/**/*.png"))) < 3:
        assert driver.poll() is None
        time.sleep(0.01)
    family = [psutil.Process(driver.pid), *psutil.Process(driver.pid).children(recursive=True)]
    assert len(family) >= 3
    listening = set()
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):  # one that something was asked of, and that has answered
            listening |= {one.laddr.ip for one in process.net_connections("inet") if one.status == "LISTEN"}
    assert listening == {"127.0.0.1"}
    os.killpg(driver.pid, signal.SIGINT)
    go_on.touch()
    assert driver.wait(timeout=300) == 130
    _, staying = psutil.wait_procs(family, timeout=120)
    assert not [process for process in staying if process.status() != psutil.STATUS_ZOMBIE]
    with Ledger(tmp_path / "run/ledger.sqlite", read_only=True) as ledger:
        recorded = {f"{entry.key}.png" for entry in ledger}
    labels = tmp_path / "run/labels"
    assert {path.relative_to(labels).as_posix() for path in labels.rglob("*.png")} == recorded
    with LabelRun(night.settings()) as run:
        assert run.plan.done_count == len(recorded)
        list(run)
    night.check(run)
