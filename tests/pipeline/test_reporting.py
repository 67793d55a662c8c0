"""Reports: what is collected of a run, and the folder that it is put into."""

import base64
import json
import re
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from pipeline.audit import audit_labels
from pipeline.audit_file import write_audit
from pipeline.calibration_counts import CalibrationCounts, PixelCounts
from pipeline.calibration_file import Calibration
from pipeline.evaluation import evaluate_labels
from pipeline.labelling import LabelRun
from pipeline.merging import MergeRun, MergeSettings
from pipeline.report_settings import ReportSettings
from pipeline.reporting import Report, make_report
from pipeline.rethresholding import RethresholdRun, RethresholdSettings
from pipeline.settings import LabelSettings
from pipeline.threshold_choice import ChoiceRule, ClassChoice
from pipeline.verification import Verification
from storage.errors import AutocoarseError, ForeignSettingsError, MissingFileError, SettingsError, WorkspaceError
from storage.label_map import LabelMap
from storage.label_png import read_label_values
from storage.ledger import Ledger
from storage.schema import ClassInfo, ClassSchema
from storage.soft_store import SoftStore
from storage.workspace import Workspace

SIZE = (40, 56)
HOSTILE = "<img src=x onerror=alert(1)>"
"""A folder's name that a page must not take for an element."""

KEYS = (f"{HOSTILE}/1", "b/2", "b/3", "c/4")


@pytest.fixture
def schema() -> ClassSchema:
    """Three classes, whose names would end a script, start a formula and hide from a legend."""
    return ClassSchema(
        "three",
        (
            ClassInfo("</script><script>alert(1)</script>", (128, 64, 128), (7,)),
            ClassInfo("$x_{", (153, 153, 153), (17,)),
            ClassInfo("_sky", (70, 130, 180), (23,)),
        ),
    )


@pytest.fixture
def settings(tmp_path: Path, tiny_teacher: Path, make_image: Callable[..., object]) -> LabelSettings:
    """Four images in three folders with coarse labels and a truth, of which nothing is labelled yet."""
    for number, key in enumerate(KEYS):
        make_image(tmp_path / f"images/{key}.png", SIZE, number)
        rng = np.random.default_rng(number)
        truth = rng.choice(np.array([0, 1, 2, 255], np.uint8), (5, 7), p=[0.3, 0.3, 0.3, 0.1]).repeat(8, 0).repeat(8, 1)
        coarse = np.where(rng.random((5, 7)).repeat(8, 0).repeat(8, 1) < 0.5, truth, np.uint8(255))
        for name, values in (("truth", truth), ("coarse", coarse)):
            path = tmp_path / f"{name}/{key}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(path)
    return LabelSettings(
        images=tmp_path / "images",
        teacher=str(tiny_teacher),
        scales=(1.0,),
        threshold=0.5,
        device="cpu",
        keep="confidence",
        out=tmp_path / "run",
    )


def label(settings: LabelSettings) -> None:
    """Label to the end."""
    with LabelRun(settings) as run:
        for _ in run:
            pass


def report(run: Path, **more: object) -> Report:
    """Make a report to the end."""
    *_, last = make_report(ReportSettings.checked(run=run, workers=2, **more))
    assert last.report is not None
    return last.report


def items(made: Report) -> dict[str, Any]:
    """What the page gets as its table."""
    text = (made.folder / "data/items.js").read_text("utf-8")
    return json.loads(text.removeprefix("window.autocoarse.addItems(").removesuffix(");\n"))


def thumbs(made: Report) -> list[dict[str, Any]]:
    """What the page gets as thumbnails, of all files."""
    found: list[dict[str, Any]] = []
    for path in sorted((made.folder / "data").glob("thumbs-*.js")):
        head, _, rest = path.read_text("utf-8").partition(", ")
        assert head == f"window.autocoarse.addThumbs({len(found)}"
        found += json.loads(rest.removesuffix(");\n"))
    return found


def column(made: Report, name: str) -> dict[str, Any]:
    """A column of the table, by key."""
    table = items(made)
    return dict(zip(table["key"], table[name], strict=True))


def test_a_report_has_what_can_be_measured_of_a_run(settings: LabelSettings, schema: ClassSchema) -> None:
    """Quality is that of `evaluate`, the rest agrees with ledger, label files and kept confidence."""
    label(settings)
    made = report(settings.out, truth=settings.images.parent / "truth", coarse=settings.images.parent / "coarse")
    summary = made.summary
    *_, last = evaluate_labels(settings.out, settings.images.parent / "truth", schema)
    scores = last.scores()
    assert (summary.precision, summary.coverage) == pytest.approx((scores.precision, scores.coverage), abs=1e-4)
    assert [row.name for row in summary.classes] == list(schema.names)
    for row in summary.classes:
        assert row.precision == pytest.approx(scores.precision_by_class[row.name], abs=1e-4)
        assert row.coverage == pytest.approx(scores.recall_by_class[row.name], abs=1e-4)
        assert row.precision_low is not None
        assert row.precision_high is not None
        assert row.precision_low <= (row.precision or 0) <= row.precision_high
    with Ledger(settings.out / "ledger.sqlite", read_only=True) as ledger:
        entries = {entry.key: entry for entry in ledger}
        slots = ledger.slots()
    ignored = sum(entry.ignored for entry in entries.values()) / (4 * SIZE[0] * SIZE[1])
    assert summary.labelled == pytest.approx(1 - ignored)
    assert np.mean(summary.coverage_map) == pytest.approx(1 - ignored, abs=0.01)
    assert [row.pixels_auto for row in summary.classes] == np.sum([e.counts for e in entries.values()], axis=0).tolist()
    store = SoftStore.find(settings.out / "soft")
    assert store is not None
    codes = np.stack([store.read(slots[key], SIZE)[1] for key in KEYS])
    found = column(made, "confidence")
    assert [found[key] for key in KEYS] == pytest.approx(((codes + 0.5) / 100).mean((1, 2)).tolist(), abs=1e-4)
    counts, _ = np.histogram((codes + 0.5) / 100, 20, (0, 1))
    assert summary.confidence_histogram == pytest.approx((counts / codes.size).tolist())
    assert column(made, "ignore")[KEYS[1]] == pytest.approx(entries[KEYS[1]].ignored / codes[0].size, abs=1e-4)
    labels, coarse, truth = (
        read_label_values(settings.images.parent / name / f"{KEYS[0]}.png")
        for name in ("run/labels", "coarse", "truth")
    )
    for name, other in (("disagreement", coarse), ("error", truth)):
        judged = (labels != 255) & (other != 255)
        assert column(made, name)[KEYS[0]] == pytest.approx(np.mean(labels[judged] != other[judged]), abs=1e-4)


def test_curves_go_through_the_labels_own_precision(settings: LabelSettings) -> None:
    """At the run's threshold the curve has the labels' figures, and confidence is compared with what is right."""
    label(settings)
    summary = report(settings.out, truth=settings.images.parent / "truth").summary
    for curve in summary.curves:
        row = summary.classes[curve.class_index]
        point = next(point for point in curve.points if point.threshold == 0.5)
        assert (point.precision, point.coverage) == pytest.approx((row.precision, row.coverage), abs=1e-4)
        coverages = [point.coverage for point in curve.points]
        assert coverages == sorted(coverages, reverse=True)
    assert len(summary.curves) == 3
    assert summary.ece is not None
    assert sum(bin_.pixels for bin_ in summary.reliability) == sum(
        np.count_nonzero(np.array(Image.open(settings.images.parent / f"truth/{key}.png")) != 255) for key in KEYS
    )


def test_without_anything_to_compare_with_the_page_says_what_would_bring_it(settings: LabelSettings) -> None:
    """No truth, no coarse labels and no kept confidence are no errors."""
    label(settings.model_copy(update={"keep": "none"}))
    made = report(settings.out)
    summary = made.summary
    assert (summary.precision, summary.curves, summary.confidence_histogram, summary.layers) == (
        None,
        (),
        (),
        ("auto",),
    )
    assert summary.classes[0].pixels_coarse is None
    assert summary.classes[0].threshold == 0.5
    assert {"--coarse", "--truth", "--keep"} <= set(re.findall(r"--\w+", " ".join(summary.notes)))
    assert any("of the one that `rethreshold` made it of" in note for note in summary.notes), "it may be such a run"
    assert set(column(made, "disagreement").values()) == {None}
    assert [plot.path for plot in summary.plots] == ["plots/long-tail.png", "plots/labels.png"]
    for plot in summary.plots:
        Image.open(made.folder / plot.path).verify()


def test_failed_and_left_images_are_shown_as_such(settings: LabelSettings, make_image: Callable[..., object]) -> None:
    """A failed one with its reason, one that came later as left; both without figures."""
    (settings.images / "b/broken.png").write_bytes(b"no image")
    label(settings)
    make_image(settings.images / "late.png", SIZE, 9)
    made = report(settings.out)
    counts = made.summary.counts
    assert (counts.done, counts.failed, counts.left) == (4, 1, 1)
    (failure,) = made.summary.failures
    assert failure.key == "b/broken"
    assert "cannot be read as an image" in failure.reason
    assert column(made, "state") == {**dict.fromkeys(KEYS, "d"), "b/broken": "f", "late": "l"}
    assert column(made, "ignore")["late"] is None
    assert column(made, "thumb")["b/broken"] is None
    assert thumbs(made)[column(made, "thumb")["late"]].keys() == {"w", "h", "image"}


def test_other_thresholds_leave_no_image_out_of_the_count(
    settings: LabelSettings, make_image: Callable[..., object]
) -> None:
    """Images that would share a label have no entry in a run of `rethreshold`, and fail in its report all the same."""
    label(settings.model_copy(update={"keep": "confidence"}))
    for name in ("twice.png", "twice.bmp"):
        make_image(settings.images / name, SIZE, 9)
    other = settings.out.parent / "other"
    with RethresholdRun(RethresholdSettings(run=settings.out, threshold=0.6, out=other)) as run:
        assert len(list(run)) == 4
    summary = report(other).summary
    assert (summary.counts.done, summary.counts.failed, summary.counts.left) == (4, 2, 0)
    assert [failure.key for failure in summary.failures] == ["twice.bmp", "twice.png"]
    assert "would share the label twice.png" in summary.failures[0].reason


def test_labels_of_other_images_than_those_given_are_told(
    settings: LabelSettings, make_image: Callable[..., object]
) -> None:
    """Where --images is another folder, its images are left and the labels are without: the page says so."""
    label(settings)
    other = settings.images.parent / "other"
    make_image(other / "x.png", SIZE, 9)
    make_image(other / f"{KEYS[0]}.png", SIZE, 9)
    notes = report(settings.out, images=other).summary.notes
    assert any(note.startswith(f"3 of 4 labels have no image in {other}") for note in notes)
    assert not any("have no image" in note for note in report(settings.out).summary.notes)


def test_images_whose_labels_were_corrected_are_marked(settings: LabelSettings, tmp_path: Path) -> None:
    """Those of which a reviewed label is given; one that is of another image marks nothing."""
    label(settings)
    for key in ("b/2", "elsewhere"):
        place = tmp_path / f"reviewed/{key}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros(SIZE, np.uint8)).save(place)
    made = report(settings.out, reviewed=tmp_path / "reviewed")
    assert column(made, "reviewed") == {key: int(key == "b/2") for key in KEYS}
    assert made.summary.counts.reviewed == 1


def test_labels_of_a_data_set_with_its_own_names_find_their_images(settings: LabelSettings, tmp_path: Path) -> None:
    """Cityscapes' suffixes of images and labels do not keep them from each other."""
    for key in ("aachen/1", "aachen/2"):
        for folder, suffix in (("images", "_leftImg8bit"), ("truth", "_gtFine_labelTrainIds")):
            place = tmp_path / f"city/{folder}/{key}{suffix}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(tmp_path / folder / "b/2.png", place)
    city = {"images": tmp_path / "city/images", "layout": "cityscapes"}
    label(settings.model_copy(update=city))
    made = report(settings.out, truth=tmp_path / "city/truth", layout="cityscapes")
    assert set(column(made, "error")) == {"aachen/1_leftImg8bit", "aachen/2_leftImg8bit"}
    assert None not in column(made, "error").values()
    assert {"image", "auto", "truth"} <= thumbs(made)[0].keys()


def test_a_run_of_failures_has_a_page(settings: LabelSettings) -> None:
    """It says why, and has no picture to show."""
    for path in settings.images.rglob("*.png"):
        path.write_bytes(b"no image")
    label(settings)
    made = report(settings.out, coarse=settings.images.parent / "coarse")
    assert (made.summary.counts.done, made.summary.counts.failed, len(made.summary.failures)) == (0, 4, 4)
    assert [row.pixels_auto for row in made.summary.classes] == [0, 0, 0]
    assert (made.summary.labelled, made.summary.coverage_map, made.summary.plots) == (None, (), ())


def test_hostile_names_reach_the_page_as_text(settings: LabelSettings, schema: ClassSchema) -> None:
    """Neither a key nor a class name ends a script or starts an element, and both arrive as they are."""
    label(settings)
    made = report(settings.out, coarse=settings.images.parent / "coarse")
    assert items(made)["key"] == sorted(KEYS)
    for path in made.folder.rglob("*"):
        if path.suffix in (".html", ".js"):
            text = path.read_text("utf-8")
            assert HOSTILE not in text
            assert "<script>alert" not in text
    assert [row.name for row in made.summary.classes] == list(schema.names)


def test_thumbnails_hold_image_and_labels_of_one_size(settings: LabelSettings) -> None:
    """Labels are class indices of pixels of the file; the worst item comes first."""
    label(settings)
    made = report(settings.out, truth=settings.images.parent / "truth", thumb_size=32)
    numbers, errors = column(made, "thumb"), column(made, "error")
    assert sorted(numbers, key=lambda key: numbers[key]) == sorted(errors, key=lambda key: -errors[key])
    shown = thumbs(made)[numbers["b/2"]]
    assert (shown["w"], shown["h"]) == (32, 23)
    small = np.frombuffer(zlib.decompress(base64.b64decode(shown["truth"])), np.uint8).reshape(23, 32)
    truth = read_label_values(settings.images.parent / "truth/b/2.png")
    assert small[0, 0] == truth[0, 0]
    assert set(np.unique(small)) <= set(np.unique(truth))
    rows, columns = (np.arange(23) + 0.5) * 40 / 23, (np.arange(32) + 0.5) * 56 / 32
    assert np.array_equal(small, truth[rows.astype(int)[:, None], columns.astype(int)])


def test_thumbnails_never_take_more_than_their_bytes(settings: LabelSettings) -> None:
    """They get smaller, then fewer, the worst kept; and the page says so."""
    label(settings)
    truth = settings.images.parent / "truth"
    whole = report(settings.out, truth=truth)
    counts = []
    for limit in (0, whole.thumb_bytes // 5, whole.thumb_bytes - 1):
        made = report(settings.out, truth=truth, thumb_bytes=limit)
        sizes = [path.stat().st_size for path in (made.folder / "data").glob("thumbs-*.js")]
        assert sum(sizes) == made.thumb_bytes <= limit
        assert any("--thumb-bytes" in note for note in made.summary.notes)
        numbers, errors = column(made, "thumb"), column(made, "error")
        assert made.thumbs == len(thumbs(made)) == len([n for n in numbers.values() if n is not None])
        assert not made.thumbs or numbers[max(errors, key=lambda key: errors[key])] == 0
        counts.append(made.thumbs)
    assert counts[0] == 0
    assert 0 < counts[1] < counts[2] == 4


def test_a_report_leaves_its_run_as_it_is(settings: LabelSettings) -> None:
    """Nothing in the run changes, so that `verify` finds no stray and no budget is touched."""
    label(settings)
    before = {path: path.stat() for path in settings.out.rglob("*")}
    made = report(settings.out)
    assert made.folder.parent.resolve() == settings.out.parent.resolve()
    assert made.folder.name == "run-report"
    assert {path: path.stat().st_mtime_ns for path in settings.out.rglob("*")} == {
        path: found.st_mtime_ns for path, found in before.items()
    }
    with Verification(settings.out) as verification:
        for _ in verification:
            pass
    assert not verification.summary.kinds


def test_a_folder_that_is_no_report_is_refused(settings: LabelSettings, tmp_path: Path) -> None:
    """Somebody's files are never replaced, and pictures never land among images, labels or a run's files."""
    label(settings)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("mine")
    with pytest.raises(ForeignSettingsError, match=r"holds thesis\.txt"):
        report(settings.out, out=tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    for place in ("run/report", "images/report", "truth/report", "."):
        with pytest.raises(SettingsError, match="choose another --out"):
            report(settings.out, truth=tmp_path / "truth", out=tmp_path / place)
    assert not list(tmp_path.glob(".*.partial"))


def test_a_report_that_is_stopped_leaves_the_older_one(settings: LabelSettings) -> None:
    """The old one is whole at every moment, also when a kill came between the last two steps; the next replaces it."""
    label(settings)
    made = report(settings.out)
    before = {path: path.read_bytes() for path in made.folder.rglob("*") if path.is_file()}
    working = make_report(ReportSettings.checked(run=settings.out, truth=settings.images.parent / "truth"))
    while next(working).stage != "thumbnails":
        pass
    working.close()
    assert {path: path.read_bytes() for path in made.folder.rglob("*") if path.is_file()} == before
    scratch = made.folder.with_name(".run-report.partial")
    assert not scratch.exists()
    scratch.mkdir()
    made.folder.rename(scratch / "old")
    (scratch / "new").mkdir()
    working = make_report(ReportSettings.checked(run=settings.out))
    next(working)
    assert made.index.is_file()
    working.close()
    again = report(settings.out, truth=settings.images.parent / "truth")
    assert again.summary.precision is not None
    assert not scratch.exists()


def test_two_reports_at_a_time_do_not_mix(settings: LabelSettings) -> None:
    """The second one is told so."""
    label(settings)
    scratch = settings.out.with_name(".run-report.partial")
    scratch.mkdir()
    with FileLock(scratch / ".lock"), pytest.raises(WorkspaceError, match="another autocoarse process"):
        report(settings.out)


def test_what_cannot_be_read_is_left_out_and_named(settings: LabelSettings, make_image: Callable[..., object]) -> None:
    """A truth of another size, a damaged chunk of confidence and an image that was replaced cost themselves alone."""
    label(settings)
    truth = settings.images.parent / "truth"
    Image.fromarray(np.zeros((3, 3), np.uint8)).save(truth / "b/2.png")
    next((settings.out / "soft").rglob("c.0.*")).write_bytes(b"damaged")
    make_image(settings.images / "c/4.png", (20, 20), 1)
    made = report(settings.out, truth=truth)
    assert made.problems == 3
    (note,) = [note for note in made.summary.notes if note.startswith("Left out")]
    assert "is 3x3, expected 56x40" in note
    assert column(made, "error")["b/2"] is None
    assert sum(share is None for share in column(made, "confidence").values()) == 1
    assert thumbs(made)[column(made, "thumb")["c/4"]]["image"] == ""


def merge(settings: LabelSettings, out: Path) -> None:
    """Merge the coarse and the automatic labels."""
    root = settings.images.parent
    merging = MergeSettings.checked(
        coarse=root / "coarse", auto=settings.out, classes=str(settings.out / "classes.json"), out=out
    )
    with MergeRun(merging) as run:
        for _ in run:
            pass


def test_merged_labels_are_shown_beside_those_that_they_are_from(settings: LabelSettings, tmp_path: Path) -> None:
    """Given with their run, or as the run itself: the same layers and pixels; of the latter the parents are found."""
    label(settings)
    merge(settings, tmp_path / "filled")
    beside = report(settings.out, coarse=tmp_path / "coarse", merged=tmp_path / "filled").summary
    own = report(tmp_path / "filled", out=tmp_path / "page").summary
    assert beside.layers == own.layers == ("coarse", "auto", "merged")
    for one, other in zip(beside.classes, own.classes, strict=True):
        pixels = (one.pixels_coarse, one.pixels_auto, one.pixels_merged)
        assert pixels == (other.pixels_coarse, other.pixels_auto, other.pixels_merged)
        assert None not in pixels
    assert dict(own.made)["made by"] == "autocoarse merge"
    assert dict(own.made)["policy of the merge"] == "fill"
    assert own.labelled is not None
    assert beside.labelled is not None
    assert own.labelled > beside.labelled
    settings.out.rename(tmp_path / "away")
    gone = report(tmp_path / "filled", out=tmp_path / "page").summary
    assert gone.layers == ("coarse", "merged")
    assert gone.classes[0].pixels_auto is None
    assert any("auto labels that were merged are not found" in note for note in gone.notes)
    (confidence,) = [note for note in gone.notes if "confidence" in note]
    assert confidence.endswith("`label --keep confidence` of the run whose labels were merged.")


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"run": "images"}, MissingFileError, "is no RUN"),
        ({"merged": "run"}, SettingsError, "is no run of `merge`"),
        ({"truth": "nowhere"}, MissingFileError, "no label folder"),
        ({"thumb_size": 1}, SettingsError, "thumb_size"),
    ],
)
def test_what_is_no_run_or_no_folder_is_refused(
    settings: LabelSettings, changes: dict[str, Any], kind: type[AutocoarseError], words: str
) -> None:
    """With what would do."""
    label(settings)
    root = settings.images.parent
    named = {name: root / value if isinstance(value, str) else value for name, value in changes.items()}
    with pytest.raises(kind, match=re.escape(words)):
        report(**({"run": settings.out} | named))


def calibration(schema: ClassSchema) -> Calibration:
    """Of these classes, in two steps; its labels of class 1 were always right, of class 2 there was no truth."""
    counts = CalibrationCounts.nothing(3, 2)
    for seed in range(6):
        rng = np.random.default_rng(seed)
        truth = rng.integers(0, 2, (8, 8), np.uint8)
        given = np.where(rng.random((8, 8)) < 0.5, truth, np.uint8(0))
        planes = np.stack([given, rng.integers(0, 2, (8, 8), np.uint8)])
        counts = counts.plus(PixelCounts.of_image(LabelMap(truth, 3), planes, 2))
    choices = tuple(ClassChoice(name, 0.5, "met") for name in schema.names)
    measured = {"temperature": 1.0, "classes": list(schema.names)}
    return Calibration("calibration.json", measured, counts, ChoiceRule(target_precision=0.9), choices, {}, 0)


def test_quality_is_taken_from_a_calibration_or_an_audit_of_the_run(
    settings: LabelSettings, schema: ClassSchema
) -> None:
    """A calibration gives curves and reliability, an audit the disagreement; a truth that is given comes first."""
    label(settings)
    run = Workspace(settings.out)
    coarse = settings.images.parent / "coarse"
    *_, audited = audit_labels(settings.out, coarse, schema)
    assert audited.audit is not None
    write_audit(run.audit, audited.audit)
    made = report(settings.out)
    assert any("no pixel count before: --coarse" in note for note in made.summary.notes), "the audit tells the other"
    agreement = audited.audit.precision
    assert (made.summary.precision, made.summary.curves) == (agreement, ())
    assert "not with the truth: coarse labels cover the interiors" in made.summary.precision_source
    compared = report(settings.out, coarse=coarse)
    assert column(made, "disagreement") == column(compared, "disagreement") != dict.fromkeys(KEYS)
    made_before = calibration(schema)
    run.calibration.write_bytes(made_before.to_json())
    summary = report(settings.out).summary
    quality = made_before.quality()
    assert [row.precision for row in summary.classes] == [
        None if one.precision is None else pytest.approx(one.precision) for one in quality.classes
    ]
    assert (summary.classes[1].precision, summary.classes[2].precision) == (1, None)
    assert [curve.class_index for curve in summary.curves] == [0, 1]
    assert [point.coverage for point in summary.curves[1].points] == [
        pytest.approx(point.coverage, abs=1e-5) for point in made_before.curve(schema.names[1])
    ]
    assert summary.ece == pytest.approx(made_before.ece)
    assert "on 6 other images" in summary.precision_source
    measured = report(settings.out, truth=settings.images.parent / "truth").summary
    assert "Measured against the ground truth of 4 images" in measured.precision_source
    run.calibration.write_text("{}")
    damaged = report(settings.out).summary
    assert damaged.precision == agreement
    assert any(note.startswith("The calibration is left out") for note in damaged.notes)
