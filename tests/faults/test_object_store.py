"""Runs whose images and labels lie in an object store, over real sockets, and what goes wrong on the way."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cli.main import main
from storage import ledger_copy, object_io
from storage.errors import WorkspaceError
from storage.label_png import read_label_values
from storage.ledger import Ledger
from storage.object_io import find_file, get_file, put_object, read_file
from storage.object_walk import walk_objects
from storage.paths import as_path
from storage.workspace import Workspace

pytest.importorskip("moto")

IMAGES, OUT = "s3://data/images", "s3://data/runs/auto"

DRIVER = "import storage.ledger_copy as copy; copy.SECONDS = 0.2; from cli.main import main; main()"
"""The command, with its ledger copied more often than is sensible."""


class Case:
    """Images on the disk and in the store, and the command that labels them."""

    def __init__(self, folder: Path, teacher: Path, make_image: Callable[..., object], count: int) -> None:
        self.folder, self.teacher = folder, teacher
        for number in range(count):
            path = folder / "images" / ("top.png" if number == 4 else f"{number % 3}/ä {number}#.png")
            make_image(path, (40, 56), number)
            put_object(as_path(IMAGES) / path.relative_to(folder / "images").as_posix(), path.read_bytes())

    def arguments(self, images: str | Path = IMAGES, out: str | Path = OUT) -> list[str]:
        """Of the command."""
        told = {"--images": images, "--teacher": self.teacher, "--out": out, "--scales": "0.5,1", "--device": "cpu"}
        return ["label", *(str(text) for pair in told.items() for text in pair), "--json"]

    def label(self, images: str | Path = IMAGES, out: str | Path = OUT) -> tuple[Result, dict[str, Any]]:
        """Run the command; its result, and its last line where it came so far."""
        result = CliRunner().invoke(main, self.arguments(images, out))
        lines = [line for line in result.stdout.splitlines() if line.startswith("{")]
        return result, json.loads(lines[-1]) if lines else {}

    def local_labels(self) -> dict[str, bytes]:
        """What a run on the disk makes of the same images."""
        result, _ = self.label(self.folder / "images", self.folder / "local")
        assert result.exit_code == 0, result.output
        labels = self.folder / "local/labels"
        return {path.relative_to(labels).as_posix(): path.read_bytes() for path in labels.rglob("*.png")}


def stored_labels() -> dict[str, bytes]:
    """The labels of the run in the store."""
    labels = as_path(OUT) / "labels"
    return {found.relative: read_file(labels / found.relative) for found in walk_objects(labels)}


@pytest.fixture
def case(proxy: Any, tmp_path: Path, tiny_teacher: Path, make_image: Callable[..., object]) -> Case:
    """Nine images in a store without faults."""
    assert not proxy.spoilt
    return Case(tmp_path, tiny_teacher, make_image, 9)


def test_a_run_in_a_store_is_that_on_a_disk(case: Case, proxy: Any) -> None:
    """Labels are byte for byte those of a local run, with all small files beside them; a second call makes nothing."""
    result, told = case.label()
    assert result.exit_code == 0, result.output
    assert (told["labelled"], told["out"]) == (9, OUT)
    assert stored_labels() == case.local_labels()
    for path in proxy.paths("PUT", "/labels/"):
        of_label = [request.method for request in proxy.seen if request.path == path]
        assert of_label[:3] == ["HEAD", "PUT", "HEAD"], "the size of an earlier one, itself, its time"
    names = {found.relative for found in walk_objects(as_path(OUT)) if not found.relative.startswith("labels/")}
    assert names == {"classes.json", "ledger.sqlite", "settings.toml"}
    assert f'out = "{OUT}"' in read_file(as_path(OUT) / "settings.toml").decode()

    proxy.seen.clear()
    result, told = case.label()
    assert (result.exit_code, told["skipped"], told["labelled"]) == (0, 9, 0)
    assert proxy.paths("PUT", "/labels/") == []
    assert proxy.paths("GET", ".png") == [], "sizes and times agree"


def test_other_commands_read_a_run_in_a_store(case: Case, tmp_path: Path) -> None:
    """Status and budget tell the same of it, also where its driver's state is not; verify says to copy it first."""
    assert case.label()[0].exit_code == 0
    for machine in ("same", "other"):
        if machine == "other":
            shutil.rmtree(tmp_path / "state")
        status = CliRunner().invoke(main, ["status", OUT])
        assert (status.exit_code, "9 of 9" in status.output) == (0, True), status.output
        budget = CliRunner().invoke(main, ["budget", OUT, "--json"])
        assert json.loads(budget.stdout)["labels"] == 9
        assert json.loads(budget.stdout)["total_bytes"] == sum(f.size for f in walk_objects(as_path(OUT)))
    verify = CliRunner().invoke(main, ["verify", OUT])
    assert (verify.exit_code, "copy it first" in verify.output) == (2, True)


def test_a_budget_holds_in_a_store(case: Case) -> None:
    """A budget that does not do for all labels ends the run cleanly with exit code 4 and is not passed."""
    arguments = [*case.arguments(), "--budget", "94KB"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 4, result.output
    assert sum(found.size for found in walk_objects(as_path(OUT))) <= 94_000


@pytest.mark.parametrize("kind", ["cut", "late", "torn", "503"])
def test_a_run_ends_complete_over_a_bad_connection(
    case: Case, proxy: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every fourth request is cut or answered 503: the run is complete, with the labels of a good day."""
    monkeypatch.setattr(object_io, "FIRST_PAUSE", 0.01)
    last_was_spoilt: dict[tuple[str, str], bool] = {}

    def every_fourth(request: Any) -> str:
        # and none at each attempt, whichever requests others make between two of them
        which = (request.method, request.path)
        last_was_spoilt[which] = request.number % 4 == 3 and not last_was_spoilt.get(which, False)
        return kind if last_was_spoilt[which] else ""

    proxy.fault = every_fourth
    result, told = case.label()
    assert result.exit_code == 0, result.output
    assert (told["labelled"], told["failed"]) == (9, 0)
    assert proxy.spoilt >= 9
    proxy.fault = lambda _: ""
    assert stored_labels() == case.local_labels()
    get_file(as_path(OUT) / "ledger.sqlite", case.folder / "copy.sqlite")
    with Ledger(case.folder / "copy.sqlite", read_only=True) as ledger:
        assert len(ledger.done_keys()) == 9


def test_a_store_that_stays_away_ends_the_run_after_the_stated_attempts(
    case: Case, proxy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels that cannot be written are tried so many times and no more; the run says so and goes on later."""
    monkeypatch.setattr(object_io, "FIRST_PAUSE", 0.001)
    proxy.fault = lambda r: "503" if r.method == "PUT" and "/labels/2/" in r.path else ""
    result, _ = case.label()
    assert result.exit_code == 1
    assert f"tried {object_io.ATTEMPTS} times" in result.output
    tried = proxy.paths("PUT", "/labels/2/")
    assert max(tried.count(path) for path in tried) == object_io.ATTEMPTS
    proxy.fault = lambda _: ""
    result, told = case.label()
    assert result.exit_code == 0, result.output
    assert told["skipped"] >= 1
    assert stored_labels() == case.local_labels()


def test_an_image_that_is_gone_is_a_failure_of_its_own(case: Case, proxy: Any) -> None:
    """An image that was deleted since it was listed fails; the others are labelled."""
    gone = as_path(IMAGES) / "1/ä 1#.png"

    def delete(request: Any) -> str:
        if request.method == "PUT" and request.path.endswith("settings.toml") and find_file(gone) is not None:
            object_io.remove_file(gone)  # its requests come back here, and pass
        return ""

    proxy.fault = delete
    result, told = case.label()
    assert result.exit_code == 3, result.output
    assert (told["labelled"], told["failed"]) == (8, 1)
    assert "no such object" in read_file(as_path(OUT) / "failed.txt").decode()


def test_refused_credentials_and_missing_buckets_are_said_at_once(
    case: Case, proxy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is one clear message and exit code 1, after one request and not after many."""
    result, _ = case.label(out="s3://nowhere/auto")
    assert (result.exit_code, "no such bucket" in result.output) == (1, True), result.output
    result, _ = case.label(images="s3://nowhere/images")
    assert (result.exit_code, "no such bucket" in result.output) == (1, True), result.output

    proxy.seen.clear()
    proxy.fault = lambda _: "403"
    result, _ = case.label()
    assert (result.exit_code, "AWS_ACCESS_KEY_ID" in result.output) == (1, True), result.output
    assert len(proxy.seen) == 1

    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    result, _ = case.label()
    assert (result.exit_code, "AWS_ACCESS_KEY_ID" in result.output) == (1, True), result.output


def test_a_killed_driver_whose_machine_is_lost_goes_on_elsewhere(
    case: Case,
    proxy: Any,
    tmp_path: Path,
    make_image: Callable[..., object],
    slowly: Callable[[float, int], dict[str, str]],
) -> None:
    """Kill -9 and no state folder any more: another machine goes on from the ledger's copy, and nothing is lost."""
    for number in range(9, 40):
        path = tmp_path / f"images/{number % 3}/{number}.png"
        make_image(path, (120, 160), number)
        put_object(as_path(IMAGES) / path.relative_to(tmp_path / "images").as_posix(), path.read_bytes())
    its_way = proxy.another()
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, *case.arguments()],
        env={**slowly(0.15, 30), "AWS_ENDPOINT_URL": its_way.url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    copy, known = as_path(OUT) / "ledger.sqlite", 0
    while known < 3:
        assert driver.poll() is None, driver.communicate()
        if find_file(copy) is not None:
            get_file(copy, tmp_path / "seen.sqlite")
            with Ledger(tmp_path / "seen.sqlite", read_only=True) as ledger:
                known = len(ledger.done_keys())
        time.sleep(0.02)
    driver.kill()
    driver.communicate()
    assert driver.returncode == -signal.SIGKILL
    its_way.cut_off()  # what it had sent is there before another looks
    its_way.close()
    labels = stored_labels()
    assert known <= len(labels) < 40, "the kill must have come in the middle"
    shutil.rmtree(tmp_path / "state")

    result, told = case.label()
    assert result.exit_code == 0, result.output
    assert known <= told["skipped"] < 40
    assert told["skipped"] + told["labelled"] == 40
    after = stored_labels()
    assert after == case.local_labels()
    assert labels.items() <= after.items()


def test_a_run_whose_ledger_is_lost_is_made_again(case: Case, tmp_path: Path) -> None:
    """Neither state nor copy: what the labels are made with is in them, and they are made again, but no other's."""
    assert case.label()[0].exit_code == 0
    labels = stored_labels()
    shutil.rmtree(tmp_path / "state")
    object_io.remove_file(as_path(OUT) / "ledger.sqlite")
    result = CliRunner().invoke(main, [*case.arguments(), "--threshold", "0.3"])
    assert result.exit_code == 1, result.output
    assert "was not made by this run" in result.output
    assert stored_labels() == labels
    shutil.rmtree(tmp_path / "state")
    object_io.remove_file(as_path(OUT) / "ledger.sqlite")
    result, told = case.label()
    assert (result.exit_code, told["labelled"]) == (0, 9), result.output
    assert stored_labels() == labels


def test_the_ledger_of_the_driver_that_was_last_wins(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that comes back takes what another has done meanwhile; one that merely stopped keeps its own."""
    assert case.label()[0].exit_code == 0
    monkeypatch.setenv("AUTOCOARSE_STATE", str(tmp_path / "other"))
    extra = tmp_path / "images/0/ä 0#.png"
    put_object(as_path(IMAGES) / "new.png", extra.read_bytes())
    result, told = case.label()
    assert (result.exit_code, told["skipped"], told["labelled"]) == (0, 9, 1)

    monkeypatch.setenv("AUTOCOARSE_STATE", str(tmp_path / "state"))
    result, told = case.label()
    assert (result.exit_code, told["skipped"], told["labelled"]) == (0, 10, 0), result.output
    (folder,) = (tmp_path / "state").iterdir()
    assert (folder / "ledger-before.sqlite").exists(), "what was there is put aside, not thrown away"


def test_two_drivers_at_once_are_noticed(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy that somebody else wrote meanwhile is not written over; the run ends with a message that says so."""
    from pipeline.labelling import LabelRun
    from pipeline.settings import LabelSettings

    monkeypatch.setattr(ledger_copy, "_FIRST_SECONDS", 60.0)  # neither copies before it ends
    settings = LabelSettings.checked(images=IMAGES, out=OUT, teacher=str(case.teacher), scales=(1.0,), device="cpu")
    with pytest.raises(WorkspaceError, match="another driver"), LabelRun(settings) as run:  # noqa: PT012 - it raises at its end
        monkeypatch.setenv("AUTOCOARSE_STATE", str(tmp_path / "other"))
        with LabelRun(settings) as other:
            assert len(list(other)) == 9
        monkeypatch.setenv("AUTOCOARSE_STATE", str(tmp_path / "state"))
        assert len(list(run)) == 9


def test_a_run_that_was_deleted_from_the_store_may_be_made_anew(case: Case) -> None:
    """Other settings after the run was deleted are no quarrel with the ledger that is still on the disk."""
    assert case.label()[0].exit_code == 0
    for found in list(walk_objects(as_path(OUT))):
        object_io.remove_file(as_path(OUT) / found.relative)
    result = CliRunner().invoke(main, [*case.arguments(), "--threshold", "0.3"])
    assert result.exit_code == 0, result.output
    assert len(stored_labels()) == 9


def test_a_listing_is_read_page_by_page(proxy: Any) -> None:
    """Of 2,500 objects 1,000 a request are listed, the second page only once the first has been used up."""
    import s3fs

    store = s3fs.S3FileSystem()
    store.pipe({f"data/many/{number // 100:02}/{number:04}.png": b"x" for number in range(2500)})
    proxy.seen.clear()
    walk = walk_objects(as_path("s3://data/many"))
    first = next(walk)
    assert (first.relative, first.size, len(proxy.seen)) == ("00/0000.png", 1, 1)
    assert first.modified_ns == object_io.file_info(as_path("s3://data/many/00/0000.png")).modified_ns
    rest = [found.relative for found in walk]
    assert len(rest) == 2499
    assert rest == sorted(rest)
    assert len(proxy.paths("GET", "list-type=2")) == 3


def test_a_worker_needs_no_state(case: Case, tmp_path: Path) -> None:
    """A pickled workspace publishes labels that can be read back, and makes no folder for it on its machine."""
    import pickle

    workspace = pickle.loads(pickle.dumps(Workspace(as_path(OUT))))  # noqa: S301 - our own
    label = case.local_labels()["0/ä 0#.png"]
    path = workspace.label_path("0/ä 0#")
    workspace.publish_together([(path, label)])
    assert read_file(path) == label
    assert read_label_values(path).shape == (40, 56)
    assert not (tmp_path / "state").exists()
