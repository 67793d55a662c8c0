"""Workers that are not what a run needs: other versions, folders, clocks, without the teacher's file, or strangers."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from cli.status_view import block
from pipeline import dask_workers, labelling
from pipeline.labelling import LabelRun
from pipeline.status import read_status
from storage.errors import SettingsError, WorkerError


def refused(run: LabelRun) -> list[str]:
    """Why workers are not."""
    return [worker.state for worker in run.workers.view() if worker.state not in ("ready", "opening")]


def test_a_worker_of_another_version_is_refused_with_both_named(
    cluster: Any,
    night: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Alone it ends the run; beside one of the same version it is left out, and the run is whole."""
    other = tmp_path / "other/autocoarse-9.9.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: autocoarse\nVersion: 9.9\n")
    monkeypatch.setattr(dask_workers, "_GRACE_SECONDS", 1.0)
    cluster.start_scheduler()
    cluster.start_worker("--no-nanny", PYTHONPATH=str(tmp_path / "other"))
    mixed = pytest.raises(WorkerError, match=r"autocoarse 9\.9, this is autocoarse 0\.1")
    with LabelRun(night.settings(scheduler=cluster.address)) as run, mixed:
        list(run)
    cluster.start_worker("--no-nanny", *night.slow(0, 0))
    monkeypatch.setattr(dask_workers, "_GRACE_SECONDS", 600.0)
    with LabelRun(night.settings(scheduler=cluster.address)) as run:
        night.go_on_when(lambda: len(refused(run)) == 1)
        assert len(list(run)) == night.images
        assert len(refused(run)) == 1
    night.check(run)


def in_namespace(folder: Path, mount: str) -> tuple[str, ...]:
    """What starts a worker with mounts of its own; skips where that is not allowed.

    Args:
        folder: that is mounted over, made where it is not there.
        mount: shell commands.
    """
    command = ("unshare", "--mount", "sh", "-c", f'{mount} && exec "$@"', "sh")
    folder.mkdir(exist_ok=True)
    try:
        subprocess.run([*command, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mount namespaces are not permitted here")
    return command


def hiding(folder: Path) -> tuple[str, ...]:
    """What starts a worker that sees an empty folder there, which it cannot write."""
    return in_namespace(folder, f'mount -t tmpfs -o ro none "{folder}"')


def read_only(folder: Path) -> tuple[str, ...]:
    """What starts a worker that sees a folder and cannot write there."""
    return in_namespace(folder, f'mount --bind "{folder}" "{folder}" && mount -o remount,bind,ro "{folder}"')


def test_a_worker_that_cannot_write_the_run_is_not_used(
    cluster: Any,
    night: Any,
    tmp_path: Path,
) -> None:
    """Read only, or another disk: it is left out before it can fail a single image, and the reason is told."""
    out = tmp_path / "run"
    before = read_only(out), hiding(out)
    cluster.start_scheduler()
    for one in before:
        cluster.start_worker("--no-nanny", before=one)
    cluster.start_worker("--no-nanny", *night.slow(0, 0))
    with LabelRun(night.settings(scheduler=cluster.address)) as run:
        night.go_on_when(lambda: len(refused(run)) == 2)
        assert len(list(run)) == night.images
        reasons = refused(run)
        for reason in ("Read-only", "does not see the run"):
            assert len([told for told in reasons if reason in told]) == 1, reasons
    night.check(run)


SKEWED = """
import time
now, now_ns = time.time, time.time_ns
time.time = lambda: now() + {seconds}
time.time_ns = lambda: now_ns() + {seconds} * 1_000_000_000
"""


@pytest.mark.parametrize("seconds", [-86400, 86400])
def test_a_clock_that_is_a_day_off_changes_nothing(
    cluster: Any,
    night: Any,
    tmp_path: Path,
    seconds: int,
) -> None:
    """Files have the disk's time and durations are measured by a steady clock; the next run finds all of it done."""
    (tmp_path / "skewed").mkdir()
    (tmp_path / "skewed/sitecustomize.py").write_text(SKEWED.format(seconds=seconds))  # off from the start, no jump
    cluster.start_scheduler()
    cluster.start_worker("--no-nanny", PYTHONPATH=str(tmp_path / "skewed"))
    with LabelRun(night.settings(scheduler=cluster.address)) as run:
        assert len(list(run)) == night.images
    night.check(run)
    with LabelRun(night.settings(scheduler=cluster.address)) as again:
        assert again.plan.done_count == night.images


def test_a_worker_that_lacks_the_teachers_file_gets_it_once(
    cluster: Any,
    night: Any,
    tmp_path: Path,
    tiny_teacher: Path,
) -> None:
    """It comes from the scheduler, is known by its hash, and stays for the next run."""
    hidden = tmp_path / "teachers"
    before = hiding(hidden)
    tiny_teacher.rename(hidden / "teacher.pt")
    cluster.start_scheduler()
    cluster.start_worker("--no-nanny", before=before)
    wanted = night.settings(scheduler=cluster.address)
    with LabelRun(wanted.model_copy(update={"teacher": str(hidden / "teacher.pt")})) as run:
        assert len(list(run)) == night.images
    (kept,) = cluster.folder.rglob("autocoarse-*")
    assert kept.read_bytes() == (hidden / "teacher.pt").read_bytes()
    (hidden / "teacher.pt").rename(tiny_teacher)
    night.check(run)


def test_certificates_are_asked_for_and_used(
    cluster: Any,
    night: Any,
    tmp_path: Path,
) -> None:
    """With those of one authority the run is whole; without any it is refused before anything is sent."""
    key, certificate = tmp_path / "node.key", tmp_path / "node.pem"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=node"]
    try:
        subprocess.run([*make, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no openssl")
    cluster.tls = ("--tls-ca-file", str(certificate), "--tls-cert", str(certificate), "--tls-key", str(key))
    cluster.start_scheduler()
    cluster.start_worker("--no-nanny")
    with pytest.raises(SettingsError, match="needs certificates"):
        LabelRun(night.settings(scheduler=cluster.address))
    own = {"tls_ca": certificate, "tls_cert": certificate, "tls_key": key}
    with LabelRun(night.settings(scheduler=cluster.address, **own)) as run:
        assert len(list(run)) == night.images
    night.check(run)


@pytest.mark.slow
def test_what_a_worker_had_to_give_up_is_told(
    cluster: Any, night: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that has no compiler labels all the same, and the run and its ledger, where `status` looks, say so."""
    nowhere = str(tmp_path / "no-compiler")
    cluster.start_scheduler()
    cluster.start_worker("--no-nanny", CXX=nowhere, CC=nowhere, TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "cache"))
    monkeypatch.setattr(labelling, "_SHOW_SECONDS", 0.0)
    with LabelRun(night.settings(scheduler=cluster.address, compiled=True)) as run:
        assert {entry.status for entry in run} == {"done"}
        (problem,) = run.workers.view()[0].problems
        status = read_status(run.workspace)
    assert problem.startswith("the network is run without being compiled: ")
    assert status.workers[0].problems == (problem,)
    assert any(line.endswith(f": {problem}") for line in block(status))
