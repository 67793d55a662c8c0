"""Merging two label sets: each image accounted for once, resumed by proof, and a RUN like any other."""

import json
import os
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.evaluation import evaluate_labels
from pipeline.labelling import LabelRun
from pipeline.merging import MergeRun, MergeSettings, MergeSummary
from pipeline.samples import collect_samples
from pipeline.settings import LabelSettings, settings_digest
from storage.budget import measure_bytes
from storage.errors import AutocoarseError, ForeignSettingsError, LayoutError, SettingsError, WorkspaceError
from storage.label_png import read_label_values, read_provenance
from storage.layouts import list_labels
from storage.ledger import Entry, Ledger
from storage.object_io import file_digest
from storage.schema import ClassSchema, load_schema

COARSE = [[0, 255, 1], [255, 255, 2]]
AUTO = [[1, 2, 1], [0, 255, 255]]
FILLED = [[0, 2, 1], [0, 255, 2]]


def write(path: Path, values: object) -> Path:
    """Write a label as somebody else's program would."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(values, np.uint8)).save(path)
    return path


@pytest.fixture
def settings(tmp_path: Path, schema: ClassSchema) -> MergeSettings:
    """Two images in both sets, and one in each alone."""
    for name in ("a/1", "b/2", "only/coarse"):
        write(tmp_path / f"coarse/{name}.png", COARSE)
    for name in ("a/1", "b/2", "only/auto"):
        write(tmp_path / f"auto/{name}.png", AUTO)
    (tmp_path / "classes.json").write_text(json.dumps(schema.to_dict()))
    return MergeSettings(
        coarse=tmp_path / "coarse", auto=tmp_path / "auto", classes=str(tmp_path / "classes.json"), out=tmp_path / "run"
    )


def run(settings: MergeSettings, **changes: object) -> MergeSummary:
    """Merge to the end and return the counts."""
    with MergeRun(settings.model_copy(update=changes)) as merge_run:
        for _ in merge_run:
            pass
        return merge_run.summary


def labels(out: Path) -> dict[str, bytes]:
    """Content of all label files, by their path."""
    return {p.relative_to(out / "labels").as_posix(): p.read_bytes() for p in (out / "labels").rglob("*.png")}


def failures(settings: MergeSettings) -> dict[str, str]:
    """The reason of each item that the ledger says has failed."""
    with Ledger(settings.out / "ledger.sqlite", read_only=True) as ledger:
        return {e.key: e.reason for e in ledger if e.status == "failed"}


def test_labels_of_both_sets_are_merged_and_those_of_one_are_taken_as_they_are(settings: MergeSettings) -> None:
    """By default the human's label stays, the teacher's fills it, and no label of either is lost."""
    summary = run(settings)
    assert (summary.total, summary.merged, summary.skipped, summary.failed) == (4, 4, 0, 0)
    assert (summary.coarse_only, summary.auto_only, summary.left_out, summary.stale) == (1, 1, 0, 0)
    expected = {"a/1": FILLED, "b/2": FILLED, "only/coarse": COARSE, "only/auto": AUTO}
    got = {key: read_label_values(f.path).tolist() for key, f in list_labels(settings.out).items()}
    assert got == expected
    assert summary.bytes == sum(map(len, labels(settings.out).values()))
    counts = summary.counts
    assert (counts.pixels, counts.human, counts.kept) == (24, (3, 3, 3), (3, 3, 3))
    assert (counts.filled, counts.conflicts, counts.ignored) == ((3, 2, 3), (2, 0, 0), 7)


def test_policy_auto_leaves_out_what_has_no_auto_label(settings: MergeSettings) -> None:
    """The image is counted, not merged and not failed; the human's pixels of a union class are in the others."""
    summary = run(settings, policy="auto", union_classes=("sky",))
    assert (summary.total, summary.merged, summary.left_out, summary.coarse_only) == (3, 3, 1, 0)
    got = {key: read_label_values(f.path).tolist() for key, f in list_labels(settings.out).items()}
    both = [[1, 2, 1], [0, 255, 2]]
    assert got == {"a/1": both, "b/2": both, "only/auto": AUTO}


def test_the_border_masks_the_teacher_alone(settings: MergeSettings) -> None:
    """Also where there is no human label; the human's stays."""
    run(settings, border_ignore=(0, 1, 1, 0))
    got = {key: read_label_values(f.path).tolist() for key, f in list_labels(settings.out).items()}
    assert got["a/1"] == [[0, 2, 1], [255, 255, 2]]
    assert got["only/auto"] == [[255, 2, 1], [255, 255, 255]]
    assert got["only/coarse"] == COARSE


def test_a_label_names_both_parents(settings: MergeSettings) -> None:
    """Provenance sits in the file: policy, and the hash of each label that it was made from."""
    run(settings, policy="agree")
    provenance = read_provenance(settings.out / "labels/a/1.png")
    assert provenance["policy"] == "agree"
    assert provenance["coarse_sha256"] == file_digest(settings.coarse / "a/1.png")
    assert provenance["auto_sha256"] == file_digest(settings.auto / "a/1.png")
    assert provenance["classes"] == load_schema(settings.classes).digest
    assert "coarse_sha256" not in read_provenance(settings.out / "labels/only/auto.png")


def test_a_second_run_does_nothing_and_knows_all_counts(
    settings: MergeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is merged stays as it is, no label is read, and the counts are those of the first run."""
    first = run(settings)
    before = {p: p.stat().st_mtime_ns for p in (settings.out / "labels").rglob("*.png")}

    def refuse(path: Path, *_: object) -> str:
        raise AssertionError(f"{path} was read")

    for function in (
        "storage.agreement.file_digest",
        "pipeline.merge_pair.file_digest",
        "pipeline.merge_pair.read_label_png",
    ):
        monkeypatch.setattr(function, refuse)
    second = run(settings)
    assert (second.merged, second.skipped, second.failed) == (0, 4, 0)
    assert (second.counts, second.bytes) == (first.counts, first.bytes)
    assert {p: p.stat().st_mtime_ns for p in (settings.out / "labels").rglob("*.png")} == before


def test_a_changed_parent_is_merged_again(settings: MergeSettings) -> None:
    """Either parent, also when one comes or goes; a parent that was only copied anew is not."""
    run(settings)
    for number, folder in enumerate((settings.coarse, settings.auto), start=1):
        write(folder / "a/1.png", [[number] * 3] * 2)
        os.utime(folder / "a/1.png", ns=(number, number))
        summary = run(settings)
        assert (summary.merged, summary.skipped) == (1, 3)
    assert read_label_values(settings.out / "labels/a/1.png").tolist() == [[1] * 3] * 2
    (settings.auto / "a/1.png").touch()
    assert run(settings).merged == 0
    (settings.auto / "b/2.png").unlink()
    write(settings.auto / "only/coarse.png", AUTO)
    summary = run(settings)
    assert (summary.merged, summary.coarse_only, summary.counts.pixels) == (2, 1, 24)
    assert read_label_values(settings.out / "labels/b/2.png").tolist() == COARSE
    assert read_label_values(settings.out / "labels/only/coarse.png").tolist() == FILLED


def test_a_label_whose_parents_are_gone_stays_and_is_counted_apart(settings: MergeSettings) -> None:
    """It is none of the listing's any more; nothing that was made is deleted."""
    run(settings)
    (settings.auto / "only/auto.png").unlink()
    summary = run(settings)
    assert (summary.total, summary.skipped, summary.stale) == (3, 3, 1)
    assert "only/auto.png" in labels(settings.out)


def test_missing_and_damaged_labels_are_made_again(settings: MergeSettings) -> None:
    """An entry counts only if its file agrees; the labels are byte for byte what they were."""
    run(settings)
    whole = labels(settings.out)
    (settings.out / "labels/a/1.png").unlink()
    (settings.out / "labels/b/2.png").write_bytes(whole["b/2.png"][:-20])
    summary = run(settings)
    assert (summary.merged, summary.skipped) == (2, 2)
    assert labels(settings.out) == whole


def test_a_label_of_our_own_that_no_entry_speaks_of_is_made_again(settings: MergeSettings) -> None:
    """A kill between label and ledger leaves a label whose provenance says that it is this run's."""
    run(settings)
    whole = labels(settings.out)
    connection = sqlite3.connect(settings.out / "ledger.sqlite")
    for table in ("entries", "notes"):
        connection.execute(f"DELETE FROM {table} WHERE key = 'a/1'")  # noqa: S608 - two names of ours
    connection.execute("DELETE FROM notes WHERE key = 'b/2'")
    connection.commit()
    connection.close()
    summary = run(settings)
    assert (summary.merged, summary.skipped, summary.failed) == (2, 2, 0)
    assert labels(settings.out) == whole
    assert summary.counts.pixels == 24


def test_a_label_made_by_hand_is_never_replaced(settings: MergeSettings) -> None:
    """A PNG of anybody's in a label's place stays as it is; its pair is a failed item with the reason."""
    run(settings)
    path = write(settings.out / "labels/a/1.png", COARSE)
    by_hand = path.read_bytes()
    summary = run(settings)
    assert (summary.skipped, summary.failed) == (3, 1)
    assert path.read_bytes() == by_hand
    assert "move it away" in failures(settings)["a/1"]
    path.unlink()
    assert run(settings).merged == 1


def test_labels_that_no_ledger_speaks_of_are_never_written_over(settings: MergeSettings) -> None:
    """A folder of somebody's labels is refused as output folder, and left as it is."""
    human = write(settings.out / "labels/a/1.png", COARSE)
    before = human.read_bytes()
    with pytest.raises(ForeignSettingsError, match="choose another --out"):
        MergeRun(settings)
    assert human.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "bad", "says"),
    [
        ("coarse", [[0, 1], [1, 1]], "the coarse label is 2x2 with 3 classes, the auto label 3x2"),
        ("auto", [[9, 1, 1], [1, 1, 1]], "value 9 is no class index"),
        ("auto", None, "cannot be read"),
    ],
)
def test_a_pair_that_cannot_be_merged_is_one_failed_item_and_is_tried_again(
    settings: MergeSettings, name: str, bad: object, says: str
) -> None:
    """Other sizes, an illegal value, a torn file: the others are merged, and the older label is not used."""
    run(settings)
    path = settings.out.parent / name / "a/1.png"
    good = path.read_bytes()
    if bad is None:
        path.write_bytes(good[:-30])
    else:
        write(path, bad)
    write(settings.auto / "new.png", AUTO)
    summary = run(settings)
    assert (summary.merged, summary.skipped, summary.failed) == (1, 3, 1)
    (reason,) = failures(settings).values()
    assert says in reason
    assert str(path) in reason
    assert (settings.out / "failed.txt").read_text("utf-8").splitlines() == [reason]
    assert "a/1" not in list_labels(settings.out)
    path.write_bytes(good)
    summary = run(settings)
    assert (summary.merged, summary.skipped, summary.failed) == (1, 4, 0)
    assert not (settings.out / "failed.txt").exists()


def test_a_border_that_leaves_no_pixel_of_an_image_fails_that_image(settings: MergeSettings) -> None:
    """A larger image is merged; the message names the files and the sizes."""
    write(settings.auto / "large.png", [[1] * 3] * 4)
    summary = run(settings, border_ignore=(1, 1, 0, 0))
    assert (summary.merged, summary.failed) == (1, 4)
    assert "leaves no pixel of 3x2" in failures(settings)["a/1"]


@pytest.mark.skipif(sys.platform == "darwin", reason="its file system has UTF-8 names only")
def test_a_name_that_is_not_utf8_is_one_failed_item(settings: MergeSettings) -> None:
    """It cannot be a key of the ledger; the others are merged."""
    write(settings.coarse / os.fsdecode(b"caf\xe9.png"), COARSE)
    summary = run(settings)
    assert (summary.merged, summary.failed) == (4, 1)
    assert "rename" in (settings.out / "failed.txt").read_text("utf-8")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"policy": "agree"}, "policy: fill -> agree"),
        ({"union_classes": ("pole",)}, r"union_classes: \[\] -> \['pole'\]"),
        ({"border_ignore": (0, 1, 0, 0)}, r"border_ignore: \[0, 0, 0, 0\] -> \[0, 1, 0, 0\]"),
        ({"ids": "source"}, "source_ids: None -> {'road'"),
    ],
)
def test_other_settings_are_refused_with_what_differs(
    settings: MergeSettings, changes: dict[str, object], says: str
) -> None:
    """A folder of labels merged one way is not continued another way."""
    run(settings)
    with pytest.raises(ForeignSettingsError, match=says):
        MergeRun(settings.model_copy(update=changes))
    assert run(settings).skipped == 4


def test_settings_that_change_no_pixel_are_not_compared(settings: MergeSettings) -> None:
    """Parents that were moved, and union classes in another order, are the same run."""
    union: dict[str, object] = {"union_classes": ("sky", "pole")}
    run(settings, **union)
    settings.coarse.rename(settings.coarse.with_name("moved"))
    again = run(settings, coarse=settings.coarse.with_name("moved"), union_classes=("pole", "sky"))
    assert again.skipped == 4


def test_source_ids_become_class_indices(settings: MergeSettings) -> None:
    """Human labels in the data set's own ids are merged as classes; ids that no class has are counted."""
    for folder in (settings.coarse, settings.auto):
        for path in folder.rglob("*.png"):
            path.unlink()
    write(settings.coarse / "x.png", [[7, 0, 23], [99, 18, 255]])
    write(settings.auto / "x.png", [[23, 7, 23], [17, 17, 0]])
    summary = run(settings, ids="source")
    assert read_label_values(settings.out / "labels/x.png").tolist() == [[0, 0, 2], [1, 1, 255]]
    assert summary.counts.unknown == 1
    assert run(settings, ids="source").counts.unknown == 1


def test_cityscapes_names_are_paired_with_a_run_of_its_images(settings: MergeSettings, tmp_path: Path) -> None:
    """A _gtCoarse_labelIds file finds the automatic label of the _leftImg8bit image."""
    write(tmp_path / "city/gtCoarse/train/x/x_1_gtCoarse_labelIds.png", [[7, 0]])
    with Ledger(settings.out.parent / "ledger.sqlite") as ledger:
        ledger.claim({"threshold": 0.5})
        ledger.commit([Entry(key="train/x/x_1_leftImg8bit", status="done", settings_digest="d", image_sha256="abc")])
    write(tmp_path / "labels/train/x/x_1_leftImg8bit.png", [[1, 1]])
    summary = run(settings, coarse=tmp_path / "city", auto=tmp_path, layout="cityscapes", out=tmp_path / "elsewhere")
    assert (summary.merged, summary.coarse_only, summary.auto_only) == (1, 0, 0)
    with Ledger(tmp_path / "elsewhere/ledger.sqlite", read_only=True) as ledger:
        (entry,) = ledger
        assert ledger.settings is not None
        assert ledger.settings["auto"] == f"run {settings_digest({'threshold': 0.5})}"
    assert (entry.key, entry.image_sha256, entry.counts) == ("train/x/x_1", "abc", (1, 1, 0))


def test_the_ledger_names_both_parents(settings: MergeSettings) -> None:
    """Folders by a digest over their label files, which changes with any of them."""
    records = []
    for values in (COARSE, AUTO):
        write(settings.coarse / "a/1.png", values)
        run(settings)
        with Ledger(settings.out / "ledger.sqlite", read_only=True) as ledger:
            records.append(ledger.settings)
    before, after = records
    assert before is not None
    assert after is not None
    assert (before["coarse"], before["auto"]) == ("folder", "folder")
    assert before["coarse_labels"] != after["coarse_labels"]
    assert before["auto_labels"] == after["auto_labels"] != before["coarse_labels"]


def test_the_result_is_a_run_like_any_other(
    settings: MergeSettings, tmp_path: Path, tiny_teacher: Path, make_image: Callable[..., object]
) -> None:
    """Labels of a labelling run are merged; the result is measured, judged, trained on and merged further."""
    for name in ("a/1", "b/2"):
        make_image(tmp_path / f"images/{name}.png", (40, 56))
        write(tmp_path / f"human/{name}.png", np.full((40, 56), 1))
    teacher = LabelSettings(
        images=tmp_path / "images", teacher=str(tiny_teacher), scales=(1.0,), device="cpu", out=tmp_path / "auto_run"
    )
    with LabelRun(teacher) as label_run:
        made = {entry.key: entry for entry in label_run}
        digest = label_run.digest
    both = settings.model_copy(update={"coarse": tmp_path / "human", "auto": teacher.out, "policy": "agree"})
    assert run(both).merged == 2
    with Ledger(both.out / "ledger.sqlite", read_only=True) as ledger:
        entries = {entry.key: entry for entry in ledger}
        assert ledger.settings is not None
        assert ledger.settings["auto"] == f"run {digest}"
    assert {k: e.image_sha256 for k, e in entries.items()} == {k: e.image_sha256 for k, e in made.items()}

    assert measure_bytes(both.out).labels == 2
    *_, judged = evaluate_labels(both.out, tmp_path / "human", load_schema(both.classes))
    assert judged.scores().images == 2
    collection = collect_samples(tmp_path / "images", both.out, "auto", partial=False)
    assert [sample.key for sample in collection.samples] == ["a/1", "b/2"]
    further = both.model_copy(update={"auto": both.out, "out": tmp_path / "further"})
    assert run(further).merged == 2
    write(tmp_path / "human/a/1.png", np.full((40, 56), 2))
    assert (run(both).merged, run(further).merged) == (1, 1)

    with pytest.raises(ForeignSettingsError, match="threshold"):
        LabelRun(teacher.model_copy(update={"out": both.out}))
    with pytest.raises(ForeignSettingsError, match="policy"):
        run(both, out=teacher.out, auto=settings.auto)
    with pytest.raises(ForeignSettingsError, match=r"auto: run .* -> folder"):
        run(both, auto=tmp_path / "human")


@pytest.mark.parametrize("out", ["coarse", "coarse/run", "auto/a/run", "."])
def test_a_workspace_and_a_parent_that_lie_in_each_other_are_refused(settings: MergeSettings, out: str) -> None:
    """Else the next run would take merged labels for a parent's; nothing is written."""
    if out == ".":
        settings.coarse.rename(settings.out.parent / "labels")
        changes: dict[str, object] = {"coarse": settings.out.parent / "labels", "out": settings.out.parent}
    else:
        changes = {"out": settings.out.parent / out}
    with pytest.raises(SettingsError, match="choose another --out"):
        run(settings, **changes)
    assert not list(settings.out.parent.rglob("ledger.sqlite"))


def test_what_was_made_before_a_full_disk_is_kept(settings: MergeSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that fails ends the run; labels made before it are recorded, and the next run does the rest."""
    for number in range(40):
        write(settings.auto / f"{number}.png", AUTO)
    real_replace = os.replace
    published: list[str] = []

    def replace(self: Path, target: Path) -> None:
        if target.suffix == ".png":
            if len(published) >= 5:
                raise OSError(28, "No space left on device")
            published.append(target.name)
        real_replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        with pytest.raises(WorkspaceError, match="No space left"):
            run(settings)
    assert not (settings.out / ".partial").exists()
    summary = run(settings)
    assert summary.skipped == len(published)
    assert (summary.merged, summary.failed) == (summary.total - len(published), 0)


def test_leaving_in_the_middle_records_what_was_made(settings: MergeSettings) -> None:
    """A consumer that stops early, as Ctrl-C does, loses no finished label, and the next run knows all counts."""
    for number in range(100):
        write(settings.auto / f"{number}.png", AUTO)
    with MergeRun(settings) as merge_run:
        for _ in merge_run:
            break
    on_disk = len(labels(settings.out))
    summary = run(settings)
    assert (summary.skipped, summary.total) == (on_disk, 104)
    assert summary.counts.pixels == 104 * 6


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"union_classes": ("road", "truck")}, SettingsError, "truck is no class of 'three'; known are road, pole"),
        ({"coarse": Path("nowhere")}, FileNotFoundError, "no label folder nowhere"),
        ({"classes": "nowhere.json"}, FileNotFoundError, "no class schema"),
    ],
)
def test_what_cannot_be_merged_at_all_is_refused_at_once(
    settings: MergeSettings, changes: dict[str, object], error: type[AutocoarseError], says: str
) -> None:
    """Before anything is written."""
    with pytest.raises(error, match=says):
        run(settings, **changes)
    assert not settings.out.exists()


def test_an_empty_label_set_is_refused(settings: MergeSettings, tmp_path: Path) -> None:
    """A folder without labels is a mistake, not a set of blank ones."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(LayoutError, match="no labels found"):
        run(settings, auto=tmp_path / "empty")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"policy": "vote"}, "policy"),
        ({"border_ignore": (0, 0, -1, 0)}, "border_ignore"),
        ({"border_ignore": (1, 2, 3)}, "border_ignore"),
        ({"colour": 1}, "colour"),
    ],
)
def test_settings_out_of_range_are_named(settings: MergeSettings, changes: dict[str, object], says: str) -> None:
    """Each bad setting is named in the error."""
    with pytest.raises(SettingsError, match=says):
        MergeSettings.checked(**{**settings.model_dump(), **changes})
