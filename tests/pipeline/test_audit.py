"""The audit: laws that agreement obeys, cases counted by hand, and its file."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from pipeline import audit_file
from pipeline.audit import FLOOR_IMAGES, audit_labels
from pipeline.audit_file import BIAS, Audit, Mistake, read_audit, write_audit
from storage.errors import LabelError, LayoutError, MissingFileError, SettingsError, WorkspaceError
from storage.schema import ClassSchema

LABELS = arrays(np.uint8, (6, 8), elements=st.sampled_from([0, 1, 2, 255]))
Labels = Mapping[str, npt.ArrayLike]


def write_labels(folder: Path, labels: Labels) -> Path:
    """Write label files as any tool would, by key."""
    for key, values in labels.items():
        path = folder / f"{key}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.array(values, np.uint8)).save(path)
    return folder


@pytest.fixture
def audited(tmp_path: Path, schema: ClassSchema) -> "Auditor":
    """Audits labels that are given as arrays."""
    return Auditor(tmp_path, schema)


class Auditor:
    """Audits labels that are given as arrays, each time in folders of their own."""

    def __init__(self, root: Path, schema: ClassSchema) -> None:
        self.root, self.schema, self.number = root, schema, 0

    def __call__(self, auto: Labels, coarse: Labels) -> Audit:
        """The audit."""
        self.number += 1
        folder = self.root / str(self.number)
        *_, last = audit_labels(
            write_labels(folder / "auto", auto), write_labels(folder / "coarse", coarse), self.schema
        )
        assert last.audit is not None
        return last.audit


COARSE = {
    "a/0": [[0, 0, 0, 255], [1, 1, 255, 2]],
    "a/1": [[0, 0, 255, 255], [255, 255, 255, 2]],
    "2": [[2, 2, 2, 2], [255, 255, 255, 255]],
}
AUTO = {
    "a/0": [[0, 1, 255, 0], [1, 1, 1, 2]],
    "a/1": [[0, 0, 0, 0], [0, 0, 0, 2]],
    "2": [[2, 1, 1, 2], [0, 0, 0, 0]],
    "only": [[0]],
}


def test_everything_is_as_counted_by_hand(audited: Auditor) -> None:
    """Precision, coverage, confusion, folders and images are those of a case counted by hand."""
    audit = audited(AUTO, COARSE)
    assert audit.confusion == ((3, 1, 0, 1), (0, 2, 0, 0), (0, 2, 4, 0))
    road, pole, sky = audit.classes
    assert (road.name, road.precision, road.coverage, road.images, road.pixels) == ("road", 1.0, 3 / 5, 2, 3)
    assert (pole.precision, pole.coverage, pole.images, pole.pixels) == (2 / 5, 1.0, 2, 5)
    assert (sky.precision, sky.coverage) == (1.0, 4 / 6)
    assert audit.drawn_images == (2, 1, 3)
    assert (audit.precision, audit.coverage) == (9 / 12, 12 / 13)
    assert [(f.name, f.images, f.drawn, f.judged, f.agreeing) for f in audit.folders] == [
        (".", 1, 4, 4, 2),
        ("a", 2, 9, 8, 7),
    ]
    of_key = {one.key: one for one in audit.images}
    assert (of_key["a/0"].pixels, of_key["a/0"].drawn, of_key["a/0"].judged, of_key["a/0"].agreeing) == (8, 6, 5, 4)
    assert of_key["2"].mistake == Mistake("sky", "pole", 2)
    assert of_key["a/1"].mistake is None
    assert audit.images[0].key == "2"
    assert (audit.images_without_coarse, audit.images_without_auto, audit.unknown) == (1, 0, 0)
    assert audit.bias == BIAS
    assert audit.quality().classes == audit.classes
    assert (audit.quality().source, audit.quality().coverage) == ("audit", audit.coverage)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=20)
@given(labels=st.lists(LABELS, min_size=1, max_size=3))
def test_labels_agree_with_themselves(audited: Auditor, labels: list[npt.NDArray[np.uint8]]) -> None:
    """Of labels that are compared with themselves every class has precision and coverage 1, and no image a mistake."""
    named = {str(number): values for number, values in enumerate(labels)}
    named["some"] = np.zeros((2, 2), np.uint8)
    audit = audited(named, named)
    assert audit.precision == audit.coverage == 1
    assert {one.precision for one in audit.classes} <= {1, None}
    assert {one.coverage for one in audit.classes} <= {1, None}
    assert {(one.score, one.mistake) for one in audit.images} == {(0, None)}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=20)
@given(pairs=st.lists(st.tuples(LABELS, LABELS), min_size=2, max_size=4), order=st.randoms())
def test_the_order_of_images_changes_nothing(
    audited: Auditor,
    pairs: list[tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]],
    order: Random,
) -> None:
    """Images under other names, and so in another order, give the same figures, and the same score to each."""
    pairs.append((np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.uint8)))
    names = [str(number) for number in range(len(pairs))]
    mixed = list(names)
    order.shuffle(mixed)
    audits = [
        audited(
            {name: auto for name, (auto, _) in zip(keys, pairs, strict=True)},
            {name: coarse for name, (_, coarse) in zip(keys, pairs, strict=True)},
        )
        for keys in (names, mixed)
    ]
    one, other = audits
    assert (one.classes, one.confusion, one.precision) == (other.classes, other.confusion, other.precision)
    renamed = dict(zip(mixed, names, strict=True))
    scores = {renamed[image.key]: image.score for image in other.images}
    assert scores == pytest.approx({image.key: image.score for image in one.images})


def test_pixels_that_humans_did_not_draw_count_for_nothing(audited: Auditor) -> None:
    """What is given where nobody drew changes no figure but that of the image's own pixels."""
    other = {key: np.where(np.array(COARSE[key]) == 255, 2, AUTO[key]) for key in COARSE}
    one, changed = audited({key: AUTO[key] for key in COARSE}, COARSE), audited(other, COARSE)
    assert (one.classes, one.confusion, one.images) == (changed.classes, changed.confusion, changed.images)


def test_a_class_needs_images_in_which_it_was_given_and_drawn(audited: Auditor) -> None:
    """There is enough evidence only of classes that were given to judged pixels, and drawn, in enough images."""
    block = np.ones((20, 10), np.uint8)
    given_and_drawn = {str(n): np.hstack([block, 0 * block]) for n in range(FLOOR_IMAGES)}
    auto = {key: np.hstack([block, 2 * block]) for key in given_and_drawn}
    enough = {one.name: (one.enough, one.enough_truth) for one in audited(auto, given_and_drawn).classes}
    assert enough == {"road": (False, True), "pole": (True, True), "sky": (False, False)}
    del auto["0"]
    assert not any(one.enough or one.enough_truth for one in audited(auto, given_and_drawn).classes)


def test_progress_counts_the_images(tmp_path: Path, schema: ClassSchema) -> None:
    """There is one step an image, and the last alone has the audit."""
    auto, coarse = write_labels(tmp_path / "auto", AUTO), write_labels(tmp_path / "coarse", COARSE)
    steps = list(audit_labels(auto, coarse, schema))
    assert [(step.done, step.total) for step in steps] == [(1, 3), (2, 3), (3, 3)]
    assert [step.audit is None for step in steps] == [True, True, False]
    assert steps[-1].agreement == 9 / 12


def test_source_ids_of_the_coarse_labels_are_read(tmp_path: Path, schema: ClassSchema) -> None:
    """Values are read as source ids where that is said; one that nobody knows is ignored and counted."""
    auto = write_labels(tmp_path / "auto", {"0": [[7, 17, 23]]})
    coarse = write_labels(tmp_path / "coarse", {"0": [[7, 18, 99]]})
    *_, last = audit_labels(auto, coarse, schema, ids="source")
    assert last.audit is not None
    assert (last.audit.images[0].agreeing, last.audit.unknown) == (2, 1)


def test_what_cannot_be_compared_is_refused(audited: Auditor) -> None:
    """Other sizes, no common image, illegal values and empty coarse labels are errors that say what is wrong."""
    with pytest.raises(LabelError, match="4x1 but its truth"):
        audited({"0": [[0, 0, 0, 0]]}, {"0": [[0, 0]]})
    with pytest.raises(LayoutError, match="mirrored trees"):
        audited({"0": [[0]]}, {"1": [[0]]})
    with pytest.raises(LabelError, match="is no class index"):
        audited({"0": [[0]]}, {"0": [[7]]})
    with pytest.raises(LabelError, match="no pixel with a class"):
        audited({"0": [[0]]}, {"0": [[255]]})


def test_a_written_audit_is_read_back(tmp_path: Path, audited: Auditor) -> None:
    """The file holds all of an audit, and two files of the same audit are the same."""
    audit = audited(AUTO, COARSE)
    for name in ("one.json", "other.json"):
        write_audit(tmp_path / name, audit)
        assert read_audit(tmp_path / name) == audit
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "other.json").read_bytes()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"version": 2}, "version"),
        ({"kind": "calibration"}, "kind"),
        ({"classes": []}, "no classes"),
        ({"confusion": [[1, 2]]}, "size of 3 classes"),
        ({"drawn_images": [1]}, "size of 3 classes"),
        ({"precision": float("nan")}, "precision"),
        ({"precision": 1.5}, "precision"),
        ({"images": [{"key": 3}]}, "images"),
        ({"unknown": -1}, "unknown"),
    ],
)
def test_a_file_that_is_no_audit_is_refused(
    tmp_path: Path, audited: Auditor, change: dict[str, object], says: str
) -> None:
    """Whatever does not fit is named, with the file and what to do."""
    path = tmp_path / "audit.json"
    write_audit(path, audited(AUTO, COARSE))
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(SettingsError, match=f"{path}.*{says}.*make it again"):
        read_audit(path)


def test_figures_that_contradict_each_other_are_refused(tmp_path: Path, audited: Auditor) -> None:
    """More agreeing than judged pixels, a share above 1, or a class twice cannot be."""
    audit = audited(AUTO, COARSE)
    image, quality = audit.images[0], audit.classes[0]
    for damaged in (
        replace(audit, images=(replace(image, agreeing=image.judged + 1),)),
        replace(audit, classes=(replace(quality, precision=2.0), *audit.classes[1:])),
        replace(audit, classes=(replace(quality, precision_low=None), *audit.classes[1:])),
        replace(audit, classes=(quality, quality, quality)),
    ):
        write_audit(tmp_path / "audit.json", damaged)
        with pytest.raises(SettingsError, match="is no audit"):
            read_audit(tmp_path / "audit.json")


def test_a_missing_torn_or_huge_file_is_refused(
    tmp_path: Path, audited: Auditor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is not there, was cut off, or is too large to be one is an error, and is not decoded."""
    path = tmp_path / "audit.json"
    with pytest.raises(MissingFileError, match="autocoarse audit RUN"):
        read_audit(path)
    write_audit(path, audited(AUTO, COARSE))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SettingsError, match="Invalid JSON"):
        read_audit(path)
    monkeypatch.setattr(audit_file, "MAX_BYTES", 10)
    with pytest.raises(SettingsError, match="no audit has more than 10"):
        read_audit(path)


def test_what_cannot_be_written_leaves_the_old_file(
    tmp_path: Path, audited: Auditor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where writing is interrupted, or fails, the old audit is there as it was, and nothing half written beside it."""
    path = tmp_path / "audit.json"
    old = audited(AUTO, COARSE)
    write_audit(path, old)

    def fail(error: BaseException) -> None:
        def replace_file(*_: object) -> None:
            raise error

        monkeypatch.setattr(Path, "replace", replace_file)

    fail(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        write_audit(path, replace(old, coarse="other"))
    fail(PermissionError(13, "no"))
    with pytest.raises(WorkspaceError):
        write_audit(path, replace(old, coarse="other"))
    assert read_audit(path) == old
    assert not list(tmp_path.glob(".*.partial"))
