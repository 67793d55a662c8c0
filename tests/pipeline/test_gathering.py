"""Gathering: shards become the run that one command would have made, and what is missing or damaged is told."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.gathering import GatherRun, GatherSettings, GatherSummary
from pipeline.labelling import LabelRun, LabelSummary
from pipeline.rethresholding import RethresholdRun, RethresholdSettings
from pipeline.settings import LabelSettings, read_label_settings
from pipeline.verification import Verification
from storage.errors import (
    DiskFullError,
    ForeignSettingsError,
    LayoutError,
    MissingFileError,
    SettingsError,
    WorkspaceError,
)
from storage.ledger import Entry, Ledger
from storage.shard import Shard
from storage.soft_store import SoftStore
from storage.workspace import Workspace

KEYS = [f"{'abc'[number % 3]}/{number}" for number in range(9)]
SIZES = [(16, 24), (16, 24), (24, 16)]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the images and runs lie that the first test makes and every test copies."""
    return tmp_path_factory.mktemp("labelled")


@pytest.fixture
def settings(tmp_path: Path, tiny_teacher: Path, make_image: Callable[..., object], labelled: Path) -> LabelSettings:
    """Nine images, all labelled in the run `whole`, and by three shards in `1`, `2` and `3`, with kept confidence."""
    made = LabelSettings(
        images=tmp_path / "images",
        teacher=str(tiny_teacher),
        scales=(1.0,),
        device="cpu",
        keep="confidence",
        out=tmp_path / "whole",
    )
    runs = {"whole": None, "1": Shard(1, 3), "2": Shard(2, 3), "3": Shard(3, 3)}
    if not (labelled / "whole").exists():
        for number, key in enumerate(KEYS):
            make_image(labelled / f"images/{key}.png", SIZES[number % 3], number)
        for name, shard in runs.items():
            changes = {"images": labelled / "images", "out": labelled / name, "shard": shard}
            label(made.model_copy(update=changes))
    for name in ("images", *runs):
        shutil.copytree(labelled / name, tmp_path / name)
    for name, shard in runs.items():
        budget = None if shard is None else 10**8
        own = made.model_copy(update={"shard": shard, "out": tmp_path / name, "budget": budget})
        own.write(tmp_path / name / "settings.toml", "label")
    return made


@pytest.fixture
def shards(settings: LabelSettings) -> tuple[Path, ...]:
    """The three shards' runs."""
    return tuple(settings.out.with_name(name) for name in "123")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where they are gathered."""
    return tmp_path / "out"


def label(settings: LabelSettings, **changes: object) -> LabelSummary:
    """Label to the end and return the counts."""
    with LabelRun(settings.model_copy(update=changes)) as run:
        for _ in run:
            pass
        return run.summary


def gather(runs: tuple[Path, ...], out: Path, *, stop_after: int | None = None, **changes: Any) -> GatherSummary:
    """Gather to the end and return the counts; or press Ctrl-C when more than some items are taken."""
    with GatherRun(GatherSettings.checked(runs=runs, out=out, **{"workers": 2, **changes})) as run:
        count = 0
        for _ in run:
            if count == stop_after:
                raise KeyboardInterrupt
            count += 1
        assert count == len(run.plan.to_do)
        summary = run.summary
        assert summary.total == summary.labelled + summary.failed + summary.skipped + summary.missing
        return summary


def labels(run: Path) -> dict[str, bytes]:
    """Content of all label files, by their path."""
    return {p.relative_to(run).as_posix(): p.read_bytes() for p in (run / "labels").rglob("*") if p.is_file()}


def chunks(run: Path) -> dict[str, bytes]:
    """Content of each item's chunk, by key; all files of the store are one of them or its metadata."""
    store = SoftStore.find(run / "soft")
    assert store is not None
    found = {}
    with Ledger(run / "ledger.sqlite", read_only=True) as ledger:
        for entry in ledger:
            if entry.status == "done":
                found[entry.key] = store.chunk_path(ledger.slots()[entry.key], (entry.height, entry.width)).read_bytes()
    assert len(list((run / "soft").rglob("c.*"))) == len(found)
    return found


def entries(run: Path) -> dict[str, Entry]:
    """What the ledger says, without what is of one run alone: times."""
    with Ledger(run / "ledger.sqlite", read_only=True) as ledger:
        return {entry.key: replace(entry, seconds=0, modified_ns=0) for entry in ledger}


def kinds(run: Path) -> dict[str, int]:
    """What verification finds, by kind."""
    with Verification(run, workers=1) as verification:
        for _ in verification:
            pass
        return dict(verification.summary.kinds)


def test_gathered_shards_are_the_run_of_one_command(
    settings: LabelSettings, shards: tuple[Path, ...], out: Path
) -> None:
    """Labels, kept confidence and entries are those of an undivided run, and so are settings and classes."""
    summary = gather(shards, out)
    assert (summary.total, summary.labelled, summary.failed, summary.missing) == (9, 9, 0, 0)
    assert summary.bytes == sum(map(len, labels(out).values()))
    assert labels(out) == labels(settings.out)
    assert chunks(out) == chunks(settings.out)
    assert entries(out) == entries(settings.out)
    assert (out / "classes.json").read_bytes() == (settings.out / "classes.json").read_bytes()
    assert read_label_settings(out / "settings.toml") == settings.model_copy(update={"out": out})
    assert kinds(out) == {}
    assert sorted(path.name for path in out.iterdir() if not path.name.startswith(".")) == [
        "classes.json",
        "labels",
        "ledger.sqlite",
        "settings.toml",
        "soft",
    ]


def test_label_finds_everything_done(settings: LabelSettings, shards: tuple[Path, ...], out: Path) -> None:
    """The gathered run is gone on with as any other, also once the shards are gone."""
    gather(shards, out)
    for shard in shards:
        shutil.rmtree(shard)
    assert label(settings, out=out).skipped == 9
    assert kinds(out) == {}


def test_other_thresholds_come_from_gathered_confidence(
    settings: LabelSettings, shards: tuple[Path, ...], out: Path, tmp_path: Path
) -> None:
    """Rethresholded, the gathered run and the undivided one are the same."""
    gather(shards, out)
    for name, run in (("a", settings.out), ("b", out)):
        with RethresholdRun(RethresholdSettings(run=run, threshold=0.8, out=tmp_path / name)) as again:
            list(again)
    assert labels(tmp_path / "a") == labels(tmp_path / "b")
    assert kinds(tmp_path / "b") == {}


def test_a_second_gathering_does_nothing(shards: tuple[Path, ...], out: Path) -> None:
    """What is done stays as it is, files and times."""
    gather(shards, out)
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*.png")}
    summary = gather(shards, out)
    assert (summary.labelled, summary.skipped) == (0, 9)
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*.png")} == before


def test_files_are_links_and_no_copies(shards: tuple[Path, ...], out: Path) -> None:
    """A label and a chunk take no room of their own; replacing one in either run leaves the other's as it is."""
    assert gather(shards, out).linked == 9
    theirs, ours = shards[0] / "labels/c/2.png", out / "labels/c/2.png"
    assert theirs.samefile(ours)
    assert all(path.stat().st_nlink == 2 for path in (out / "soft").rglob("c.*"))
    content = ours.read_bytes()
    Workspace(shards[0]).prepare()
    Workspace(shards[0]).publish(theirs, b"another")
    assert ours.read_bytes() == content


@pytest.mark.parametrize("error", [OSError(18, "Invalid cross-device link"), NotImplementedError()])
def test_where_links_are_not_possible_files_are_copied(
    settings: LabelSettings,
    shards: tuple[Path, ...],
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    """On another disk the run is the same, and resumed alike."""

    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(os, "link", refuse)
    assert gather(shards, out).linked == 0
    assert labels(out) == labels(settings.out)
    assert chunks(out) == chunks(settings.out)
    assert not (out / "labels/c/2.png").samefile(shards[0] / "labels/c/2.png")
    assert kinds(out) == {}
    assert gather(shards, out).skipped == 9


def test_a_label_that_is_a_link_itself_is_copied(shards: tuple[Path, ...], out: Path, tmp_path: Path) -> None:
    """A second name of a symbolic link would dangle once its run is gone."""
    path = shards[0] / "labels/c/2.png"
    path.rename(tmp_path / "elsewhere.png")
    path.symlink_to(tmp_path / "elsewhere.png")
    assert gather(shards, out).linked == 8
    assert not (out / "labels/c/2.png").is_symlink()


def test_missing_images_are_listed_by_shard(settings: LabelSettings, shards: tuple[Path, ...], out: Path) -> None:
    """Without the second shard's run its images are missing; with it, or by `label`, the same folder becomes whole."""
    summary = gather((shards[0], shards[2]), out)
    assert (summary.labelled, summary.missing) == (5, 4)
    assert summary.missing_by_shard == {"2/3": 4}
    with GatherRun(GatherSettings(runs=(shards[0], shards[2]), out=out)) as run:
        assert run.plan.missing == ("a/0", "a/3", "b/1", "b/4")
        assert run.absent_shards == (Shard(2, 3),)
        assert not run.is_complete
    assert kinds(out) == {"unfinished": 4}
    other = out.with_name("other")
    shutil.copytree(out, other)
    assert gather(shards, out).labelled == 4
    assert label(settings, out=other).labelled == 4
    assert labels(out) == labels(other)
    assert gather((shards[0], shards[2]), other).skipped == 9, "what `label` made here is no less done"


def test_failed_items_stay_failed_until_their_run_has_made_them(
    settings: LabelSettings, shards: tuple[Path, ...], out: Path
) -> None:
    """A failure comes with its reason; once the shard is run again, the same command takes the label."""
    image = settings.images / "c/2.png"
    whole = image.read_bytes()
    image.write_bytes(b"no image")
    shard = settings.model_copy(update={"shard": Shard(1, 3), "out": shards[0]})
    assert label(shard).failed == 1
    summary = gather(shards, out)
    assert (summary.labelled, summary.failed, summary.missing) == (8, 1, 0)
    assert "c/2.png" in (out / "failed.txt").read_text()
    assert kinds(out) == {"failed": 1}
    image.write_bytes(whole)
    label(shard)
    summary = gather(shards, out)
    assert (summary.labelled, summary.skipped, summary.failed) == (1, 8, 0)
    assert not (out / "failed.txt").exists()
    assert labels(out) == labels(settings.out)


def test_images_without_a_key_are_failed_items(
    settings: LabelSettings, shards: tuple[Path, ...], out: Path, make_image: Callable[..., object]
) -> None:
    """They fail here as in `label`, whether or not the shards knew of them; the label of one that had the key stays."""
    make_image(settings.images / "c/2.jpg", (16, 24), 7)
    summary = gather(shards, out)
    assert (summary.labelled, summary.failed, summary.missing, summary.gone) == (9, 2, 0, 0)
    assert "would share the label c/2.png" in (out / "failed.txt").read_text()
    assert kinds(out) == {"refused": 2}


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), "its hash is not the one recorded"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9] + b"otherwise"), "its hash is not the one recorded"),
        (lambda path: path.unlink(), "cannot be read"),
    ],
)
def test_a_damaged_label_is_a_failed_item(
    shards: tuple[Path, ...], out: Path, damage: Callable[[Path], None], reason: str
) -> None:
    """It is not taken, the others are, and the reason names the file."""
    damage(shards[0] / "labels/c/2.png")
    summary = gather(shards, out)
    assert (summary.labelled, summary.failed) == (8, 1)
    assert not (out / "labels/c/2.png").exists()
    assert "1/labels/c/2.png" in (text := (out / "failed.txt").read_text())
    assert reason in text
    assert len(chunks(out)) == 8, "nor is its confidence taken"
    assert kinds(out) == {"failed": 1}


def test_a_damaged_chunk_is_a_failed_item(settings: LabelSettings, shards: tuple[Path, ...], out: Path) -> None:
    """Kept confidence that cannot be read is not taken, nor is one that is not there; `label` makes both again."""
    first, second = sorted((shards[0] / "soft").rglob("c.*"))
    first.write_bytes(first.read_bytes()[:-3])
    second.unlink()
    summary = gather(shards, out)
    assert (summary.labelled, summary.failed) == (7, 2)
    text = (out / "failed.txt").read_text()
    assert "is damaged" in text
    assert "no confidence is kept" in text
    assert label(settings, out=out).labelled == 2
    assert chunks(out) == chunks(settings.out)


def test_what_two_runs_have_alike_counts_once(shards: tuple[Path, ...], settings: LabelSettings, out: Path) -> None:
    """The duplicates are told; where one of the two is damaged the other is taken."""
    (shards[0] / "labels/c/2.png").write_bytes(b"damaged")
    runs = (*shards, settings.out)
    summary = gather(runs, out)
    assert (summary.total, summary.labelled, summary.failed, summary.duplicates) == (9, 9, 0, 9)
    assert labels(out) == labels(settings.out)
    assert chunks(out) == chunks(settings.out)
    assert gather(runs, out).skipped == 9


def test_different_labels_of_one_image_are_an_error_that_names_both(
    settings: LabelSettings, shards: tuple[Path, ...], out: Path
) -> None:
    """Nothing is written: which of them is right, only a person can say."""
    with Ledger(shards[0] / "ledger.sqlite") as ledger:
        entry = ledger.get("c/2")
        assert entry is not None
        ledger.commit([replace(entry, sha256="0" * 64)])
    with pytest.raises(LayoutError, match=r"1/labels/c/2\.png and .*whole/labels/c/2\.png"):
        gather((*shards, settings.out), out)
    assert not out.exists()


def test_runs_of_other_settings_are_refused_with_the_difference(
    settings: LabelSettings, shards: tuple[Path, ...], out: Path, tmp_path: Path
) -> None:
    """Thresholds, kept confidence and images must be the same; how hard PNGs are compressed need not."""
    other = tmp_path / "other"
    for changes, difference in (
        ({"threshold": 0.7}, r"threshold: 0\.5 -> 0\.7"),
        ({"keep": "none"}, "keep: confidence in 100 steps -> none"),
        ({"keep_steps": 50}, "keep: confidence in 100 steps -> confidence in 50 steps"),
        ({"images": tmp_path / "images/a"}, "say with --images where they are now"),
    ):
        label(settings, out=other, **changes)
        with pytest.raises(ForeignSettingsError, match=difference):
            gather((*shards, other), out)
        shutil.rmtree(other)
    label(settings, out=other, threshold=0.7)
    with pytest.raises(ForeignSettingsError, match=r"threshold: 0\.7 -> 0\.5"):
        gather(shards, other)


def test_other_classes_are_refused(shards: tuple[Path, ...], out: Path) -> None:
    """Class names may be the same where source ids are not: then classes.json differs."""
    path = shards[2] / "classes.json"
    path.write_text(path.read_text().replace("23", "24"))
    with pytest.raises(ForeignSettingsError, match=r"classes\.json"):
        gather(shards, out)


def test_entries_of_other_settings_are_failed_items(shards: tuple[Path, ...], out: Path) -> None:
    """A ledger that holds an entry of another digest than its own is not believed in that."""
    with Ledger(shards[0] / "ledger.sqlite") as ledger:
        entry = ledger.get("c/2")
        assert entry is not None
        ledger.commit([replace(entry, settings_digest="another")])
    assert gather(shards, out).failed == 1
    assert "made it with other settings, another" in (out / "failed.txt").read_text()


def test_a_replaced_image_is_a_failed_item_until_it_is_labelled(
    settings: LabelSettings, shards: tuple[Path, ...], out: Path, make_image: Callable[..., object]
) -> None:
    """A label of another image proves nothing; `label` makes it anew, and gathering does not undo that."""
    gather(shards, out)
    make_image(settings.images / "c/2.png", (24, 24), 99)
    summary = gather(shards, out)
    assert (summary.skipped, summary.failed) == (8, 1)
    assert "was replaced since" in (out / "failed.txt").read_text()
    assert label(settings, out=out).labelled == 1
    assert gather(shards, out).skipped == 9
    assert kinds(out) == {}


def test_an_image_that_is_gone_leaves_its_label(settings: LabelSettings, shards: tuple[Path, ...], out: Path) -> None:
    """The label is as good as before; a failure of it is forgotten."""
    (settings.images / "c/2.png").write_bytes(b"no image")
    label(settings, shard=Shard(1, 3), out=shards[0])
    (settings.images / "c/2.png").unlink()
    (settings.images / "c/5.png").unlink()
    summary = gather(shards, out)
    assert (summary.labelled, summary.failed, summary.missing, summary.gone) == (8, 0, 0, 1)
    assert kinds(out) == {"orphan": 1}


def test_without_the_images_completeness_is_not_proven(shards: tuple[Path, ...], out: Path, tmp_path: Path) -> None:
    """The labels are gathered all the same, with the reason; a shard that is not given is still known to be absent."""
    (tmp_path / "images").rename(tmp_path / "moved")
    with GatherRun(GatherSettings(runs=shards, out=out)) as run:
        assert len(list(run)) == 9
        assert (run.is_proven, run.is_complete) == (False, True)
        assert "no image folder" in run.absence
    with GatherRun(GatherSettings(runs=shards[:2], out=out)) as run:
        assert (run.is_proven, run.is_complete) == (False, False)
    with GatherRun(GatherSettings(runs=shards, out=out, images=tmp_path / "moved")) as run:
        assert (run.summary.skipped, run.is_proven, run.is_complete) == (9, True, True)
    assert read_label_settings(out / "settings.toml").images == tmp_path / "moved"
    assert kinds(out) == {}
    with pytest.raises(MissingFileError, match="no image folder"):
        gather(shards, out, images=tmp_path / "nowhere")


def test_shards_of_copies_of_the_images_are_gathered_where_the_images_are_said_to_be(
    settings: LabelSettings, shards: tuple[Path, ...], out: Path, tmp_path: Path
) -> None:
    """Jobs that copy the images to a disk of their own name different folders."""
    path = shards[2] / "settings.toml"
    path.write_text(path.read_text().replace((tmp_path / "images").as_posix(), "/scratch/job-3"))
    with pytest.raises(ForeignSettingsError, match="--images"):
        gather(shards, out)
    assert gather(shards, out, images=settings.images).labelled == 9


@pytest.mark.parametrize("taken", [0, 1, 5])
def test_a_stop_in_the_middle_costs_nothing(
    settings: LabelSettings, shards: tuple[Path, ...], out: Path, monkeypatch: pytest.MonkeyPatch, taken: int
) -> None:
    """After Ctrl-C what was taken is recorded; the same command takes the rest, to the same run."""
    monkeypatch.setattr("pipeline.threads._GROUP_ITEMS", 1)
    with pytest.raises(KeyboardInterrupt):
        gather(shards, out, workers=1, stop_after=taken)
    recorded = len(entries(out))
    assert taken < recorded
    assert len(labels(out)) >= recorded
    assert not (out / ".partial").exists()
    summary = gather(shards, out)
    assert (summary.skipped, summary.labelled) == (recorded, 9 - recorded)
    assert labels(out) == labels(settings.out)
    assert chunks(out) == chunks(settings.out)
    assert kinds(out) == {}


def test_files_that_were_not_recorded_are_taken_again(
    settings: LabelSettings, shards: tuple[Path, ...], out: Path
) -> None:
    """Killed between a file and its entry: what is there already is the same file, and nothing is left beside it."""
    gather(shards, out)
    with Ledger(out / "ledger.sqlite") as ledger:
        ledger.forget(KEYS)
    assert gather(shards, out).labelled == 9
    assert labels(out) == labels(settings.out)
    assert kinds(out) == {}


def test_lost_and_damaged_files_of_the_new_run_are_taken_again(shards: tuple[Path, ...], out: Path) -> None:
    """Only what agrees with its entry is done, label and chunk."""
    gather(shards, out)
    (out / "labels/c/2.png").unlink()
    whole = (out / "labels/a/0.png").read_bytes()
    (out / "labels/a/0.png").unlink()  # another file, so that the shard's own stays whole
    (out / "labels/a/0.png").write_bytes(whole[:-9])
    with Ledger(out / "ledger.sqlite", read_only=True) as ledger:
        slot = ledger.slots()["b/1"]
    next((out / "soft").rglob(f"c.{slot}.*")).unlink()
    summary = gather(shards, out)
    assert (summary.labelled, summary.skipped) == (3, 6)
    assert kinds(out) == {}


def test_a_label_made_by_hand_is_never_replaced(shards: tuple[Path, ...], out: Path) -> None:
    """What this run did not make stays; its item is a failed one with the reason."""
    gather(shards, out)
    path = out / "labels/c/2.png"
    path.unlink()
    shutil.copy(out.with_name("images") / "c/2.png", path)
    byhand = path.read_bytes()
    assert gather(shards, out).failed == 1
    assert path.read_bytes() == byhand
    assert "move it away to have the label gathered" in (out / "failed.txt").read_text()


def test_a_full_disk_stops_the_gathering_and_keeps_what_was_taken(
    shards: tuple[Path, ...], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No failed items: the same command goes on when there is room."""
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(18, "no")))
    calls: list[int] = []
    replaced = Path.replace

    def replace_or_fill(self: Path, target: Path) -> Path:
        if "labels" in Path(target).parts:
            calls.append(1)
            if len(calls) > 3:
                raise OSError(28, "No space left on device")
        return replaced(self, target)

    monkeypatch.setattr(Path, "replace", replace_or_fill)
    with pytest.raises(DiskFullError, match="free some space"):
        gather(shards, out, workers=1)
    monkeypatch.setattr(Path, "replace", replaced)
    assert {entry.status for entry in entries(out).values()} == {"done"}
    assert gather(shards, out).skipped == 3
    assert kinds(out) == {}


def test_a_run_that_is_at_work_is_told(shards: tuple[Path, ...], out: Path) -> None:
    """Its items are taken as far as they are recorded; gathering again takes the rest."""
    workspace = Workspace(shards[1])
    lock = workspace.lock()
    workspace.prepare()
    with GatherRun(GatherSettings(runs=shards, out=out)) as run:
        assert run.at_work == (shards[1],)
        assert len(list(run)) == 9
    lock.release()


def test_runs_without_kept_confidence_are_gathered_without(settings: LabelSettings, out: Path) -> None:
    """Runs that are no shards are gathered too, as far as they go; there is no store then."""
    other = out.with_name("other")
    label(settings, keep="none", out=other)
    with GatherRun(GatherSettings(runs=(other,), out=out)) as run:
        assert len(list(run)) == 9
        assert run.is_complete
        assert run.absent_shards == ()
    assert not (out / "soft").exists()
    assert kinds(out) == {}


def test_what_cannot_be_gathered_is_refused_before_anything_is_written(
    shards: tuple[Path, ...], out: Path, tmp_path: Path
) -> None:
    """No run, none at all, one twice, folders in each other, settings that are not of `label`, a lost store."""
    with pytest.raises(MissingFileError, match="is no RUN"):
        gather((*shards, tmp_path / "images"), out)
    with pytest.raises(SettingsError, match="runs"):
        gather((), out)
    with pytest.raises(SettingsError, match="is given twice"):
        gather((*shards, shards[0]), out)
    for inside in (shards[0] / "labels/out", shards[0], tmp_path):
        with pytest.raises(SettingsError, match="lie in each other"):
            gather(shards, inside)
    shutil.rmtree(shards[1] / "soft")
    with pytest.raises(WorkspaceError, match="the kept confidence is gone"):
        gather(shards, out)
    (shards[0] / "settings.toml").write_text("[merge]\n")
    with pytest.raises(WorkspaceError, match="no settings of `label`"):
        gather(shards, out)
    (shards[0] / "ledger.sqlite").write_bytes(b"no ledger at all, but long enough to be looked at")
    with pytest.raises(WorkspaceError, match="ledger"):
        gather(shards, out)
    assert not out.exists()
