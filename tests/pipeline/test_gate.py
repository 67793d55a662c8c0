"""The gate: its grammar, what fails it, what is not known, and where the figures are read from."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline import audit_file
from pipeline.audit import FLOOR_IMAGES, audit_labels
from pipeline.audit_file import Audit, write_audit
from pipeline.calibration_counts import CalibrationCounts, PixelCounts
from pipeline.calibration_file import Calibration
from pipeline.gate import Gate, check_run, read_quality
from pipeline.gate_condition import Condition
from pipeline.quality import ClassQuality, Quality
from pipeline.threshold_choice import ChoiceRule, choose_thresholds
from storage.errors import AutocoarseError, GateError, MissingFileError, SettingsError
from storage.label_map import LabelMap
from storage.ledger import Entry, Ledger
from storage.schema import ClassSchema
from storage.workspace import Workspace

MEASURES = st.sampled_from(["precision", "precision_low", "coverage"])
LETTERS = "aß木 []>=.0"
NAMES = st.text(LETTERS, min_size=1).filter(lambda name: name == name.strip())
BOUNDS = st.floats(0, 1)


def of_class(name: str, precision: float, coverage: float = 0.5, *, enough: bool = True) -> ClassQuality:
    """A class whose interval reaches 0.1 down and up."""
    ends = max(precision - 0.1, 0.0), min(precision + 0.1, 1.0)
    return ClassQuality(name, 0.5, precision, *ends, coverage, 20, 5000, enough, enough)


def of_all(*classes: ClassQuality) -> Quality:
    """What an audit says of these classes."""
    return Quality("audit", "run", classes, 0.9, 0.9)


@given(measure=MEASURES, name=st.none() | NAMES, bound=BOUNDS)
def test_a_condition_is_read_as_it_is_written(measure: str, name: str | None, bound: float) -> None:
    """Any measure, class and number survive being written and read; a name may hold brackets and signs."""
    condition = Condition(measure, name, bound)  # type: ignore[arg-type] # one of the measures
    assert Condition.parse(str(condition)) == condition
    of = "" if name is None else f"[{name}]"
    assert Condition.parse(f" {measure} {of} >= {bound} ") == condition


@given(text=st.text(LETTERS + "precision"))
def test_what_is_no_condition_is_refused_with_the_grammar(text: str) -> None:
    """Any other text is an error that shows what is expected."""
    with pytest.raises(SettingsError, match=r"expected something like precision>=0\.9"):
        Condition.parse(f"{text}!")


@pytest.mark.parametrize(
    "text",
    [
        *("", "precision", "precision>0.9", "precision>=", "precision>=1.1", "precision>=-1", "precision>=nan"),
        *(
            "miou>=0.5",
            "coverage_low>=0.5",
            "precision_high>=0.5",
            "precision[]>=0.5",
            "precision[pole>=0.5",
            "precision>=90%",
            "precision>=0.9,coverage>=0.1",
        ),
        "0.9<=precision",
    ],
)
def test_mistakes_are_refused(text: str) -> None:
    """Another sign, a number out of range, an unknown measure or an empty class is no condition."""
    with pytest.raises(SettingsError, match="is no gate"):
        Gate.parse(text)


def test_two_conditions_on_the_same_are_refused() -> None:
    """One measure of one class, or of all, is bound once."""
    with pytest.raises(SettingsError, match=r"precision>=0.9 and precision>=0.8 are on the same"):
        Gate.parse("precision>=0.9", "precision>=0.8")
    Gate.parse("precision>=0.9", "precision[pole]>=0.8", "coverage>=0.9", "precision_low>=0.5")


@given(values=st.lists(BOUNDS, min_size=1, max_size=5), bound=BOUNDS, higher=BOUNDS)
def test_who_fails_a_gate_fails_a_stricter_one(values: list[float], bound: float, higher: float) -> None:
    """Those that fail are those below the bound, and raising it takes none of them out."""
    quality = of_all(*(of_class(str(i), value) for i, value in enumerate(values)))
    failing = [
        {failure.quality.name for failure in Gate.parse(f"precision>={at_least}").failures(quality)}
        for at_least in sorted((bound, higher))
    ]
    assert failing[0] <= failing[1]
    assert failing[0] == {str(i) for i, value in enumerate(values) if value < min(bound, higher)}


def test_failing_classes_are_told_with_their_figures() -> None:
    """The message has each class that fails, its figure with its interval, and what was asked for."""
    quality = of_all(of_class("road", 0.95), of_class("pole", 0.7), of_class("sky", 0.1, enough=False))
    gate = Gate.parse("precision>=0.9", "coverage[road]>=0.6")
    assert [str(failure.condition) for failure in gate.failures(quality)] == ["precision>=0.9", "coverage[road]>=0.6"]
    with pytest.raises(GateError) as caught:
        gate.check(quality)
    assert str(caught.value).splitlines() == [
        "the gate precision>=0.9, coverage[road]>=0.6 is not met, as the audit of run says:",
        "  pole: precision 70.00% (60.00% to 80.00%) in 20 images, asked for is precision>=0.9",
        "  road: coverage 50.00%, asked for is coverage[road]>=0.6",
        "  not known, for want of evidence: sky",
    ]


def test_a_condition_on_a_class_stands_instead_of_that_on_all() -> None:
    """A class may be asked for less, or more, than the others; for another measure it is one of all."""
    quality = of_all(of_class("road", 0.95), of_class("pole", 0.7))
    assert not Gate.parse("precision>=0.9", "precision[pole]>=0.6").failures(quality)
    assert [f.quality.name for f in Gate.parse("precision>=0.9", "coverage[pole]>=0.5").failures(quality)] == ["pole"]
    assert [f.quality.name for f in Gate.parse("precision>=0.6", "precision[road]>=0.99").failures(quality)] == ["road"]


def test_the_lower_end_of_the_interval_may_be_asked_for() -> None:
    """`precision_low` fails where the precision itself would pass, of which is said that it is not sure."""
    quality = of_all(of_class("road", 0.95), of_class("sky", 1.0))
    assert not Gate.parse("precision>=0.9").failures(quality)
    assert "the interval reaches below: road 95.00% (85.00% to 100.00%); precision_low" in Gate.parse(
        "precision>=0.9"
    ).check(quality)
    with pytest.raises(GateError) as caught:
        Gate.parse("precision_low>=0.9").check(quality)
    assert str(caught.value).splitlines()[1:] == [
        "  road: precision 95.00% (85.00% to 100.00%) in 20 images, asked for is precision_low>=0.9"
    ]
    assert not Gate.parse("precision_low>=0.85").check(quality)
    assert not Gate.parse("coverage>=0.5").check(quality)


def test_a_class_with_little_evidence_does_not_fail_but_is_named() -> None:
    """Too little evidence is not known, whatever the figure is; it neither fails nor passes."""
    quality = of_all(of_class("road", 0.95), of_class("pole", 0.1, enough=False))
    gate = Gate.parse("precision>=0.9")
    assert not gate.failures(quality)
    assert gate.unknown(quality) == ("pole",)
    assert gate.check(quality) == (
        "the gate precision>=0.9, as the audit of run says: not known, for want of evidence: pole; met by the "
        "estimate, the interval reaches below: road 95.00% (85.00% to 100.00%); precision_low asks for its lower end"
    )
    assert not Gate.parse("precision[road]>=0.8").check(quality)


def test_coverage_asks_for_other_evidence_than_precision() -> None:
    """A class that is drawn often and never given fails a coverage, and its precision is not known."""
    never = replace(of_class("pole", 0.0, 0.0, enough=False), precision=None, enough_truth=True)
    quality = of_all(of_class("road", 0.95), never)
    assert [f.quality.name for f in Gate.parse("coverage>=0.1").failures(quality)] == ["pole"]
    assert Gate.parse("precision>=0.1").unknown(quality) == ("pole",)


def test_a_gate_of_which_nothing_is_known_is_not_met() -> None:
    """Where no class has enough evidence there is nothing to trust."""
    quality = of_all(of_class("road", 1.0, enough=False))
    with pytest.raises(GateError, match="for want of evidence: road; measure on more images"):
        Gate.parse("precision>=0.5").check(quality)


def test_no_condition_is_met_by_all_and_an_unknown_class_by_none() -> None:
    """A gate without conditions lets all through; a class that there is not is told with those there are."""
    quality = of_all(of_class("road", 0.1))
    assert not Gate.parse().check(quality)
    with pytest.raises(SettingsError, match="rode is no class of the audit of run; known are road"):
        Gate.parse("precision[rode]>=0.5").check(quality)


@pytest.fixture
def audit(tmp_path: Path, schema: ClassSchema) -> Audit:
    """An audit of labels that are right but for a part of the road that is labelled pole."""
    coarse = np.repeat(np.array([0, 1], np.uint8), 80).reshape(1, -1).repeat(10, 0)
    auto = coarse.copy()
    auto[:, 70:80] = 1
    for number in range(FLOOR_IMAGES):
        for name, values in (("coarse", coarse), ("auto", auto)):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(values).save(tmp_path / name / f"{number}.png")
    *_, last = audit_labels(tmp_path / "auto", tmp_path / "coarse", schema)
    assert last.audit is not None
    return last.audit


@pytest.fixture
def calibration() -> Calibration:
    """A calibration by images of which road is always right, and pole half of the time."""
    truth = LabelMap(np.array([[0, 0, 1, 0]], np.uint8).repeat(50, 0).repeat(4, 1), 2)
    given = np.array([[0, 0, 1, 1]], np.uint8).repeat(50, 0).repeat(4, 1)
    image = PixelCounts.of_image(truth, np.stack([given, np.full_like(given, 8)]), 10)
    counts = CalibrationCounts.of([image] * 12, 2, 10)
    rule = ChoiceRule(target_precision=0.9)
    choices = choose_thresholds(counts, ("road", "pole"), rule)
    measured = {"classes": ["road", "pole"], "temperature": 1.0}
    return Calibration(
        where="held out", measured=measured, counts=counts, rule=rule, choices=choices, failed={}, unknown=0
    )


def test_both_kinds_of_file_are_read(tmp_path: Path, audit: Audit, calibration: Calibration) -> None:
    """What is read is what the audit, or the calibration at its chosen thresholds, says, and gates work with both."""
    write_audit(tmp_path / "audit.json", audit)
    (tmp_path / "calibration.json").write_bytes(calibration.to_json())
    assert read_quality(tmp_path / "audit.json") == audit.quality()
    read = read_quality(tmp_path / "calibration.json")
    assert read.source == "calibration"
    assert read.classes == calibration.quality().classes
    assert [f.quality.name for f in Gate.parse("precision>=0.6").failures(read)] == ["pole"]
    assert [f.quality.name for f in Gate.parse("coverage>=0.8").failures(read)] == ["road"]


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'"text"', b"\xff", b"[" * 100_000, b'{"kind": "other"}'])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    """What is neither kind of file is an error of ours that names it."""
    path = tmp_path / "quality.json"
    with pytest.raises(MissingFileError, match="makes one"):
        read_quality(path)
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=str(path)):
        read_quality(path)


def test_a_huge_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file larger than any audit is refused before it is decoded."""
    monkeypatch.setattr(audit_file, "MAX_BYTES", 3)
    (tmp_path / "audit.json").write_bytes(b"[][]")
    with pytest.raises(SettingsError, match="4 bytes"):
        read_quality(tmp_path / "audit.json")


@pytest.fixture
def run(tmp_path: Path, audit: Audit) -> Workspace:
    """A run of as many labels as the audit is of, without the audit."""
    run = Workspace(tmp_path / "run")
    run.prepare()
    with Ledger(run.ledger) as ledger:
        ledger.claim({"classes": ["road", "pole", "sky"]})
        ledger.commit([Entry(key=image.key, status="done", settings_digest="") for image in audit.images])
    for path in (tmp_path / "auto").iterdir():
        (run.labels / path.name).write_bytes(path.read_bytes())
    return run


def test_a_run_is_judged_by_all_that_it_holds(run: Workspace, audit: Audit, calibration: Calibration) -> None:
    """Without either file a gate is refused with the commands that make them; each that is there must meet it."""
    gate, strict = Gate.parse("precision>=0.6"), Gate.parse("precision>=0.95")
    with pytest.raises(SettingsError, match=r"autocoarse audit .*autocoarse calibrate"):
        check_run(gate, run.root)
    write_audit(run.audit, audit)
    for labels in (run.root, run.labels):
        (not_known,) = check_run(gate, labels)
        assert "want of evidence: sky" in not_known
        with pytest.raises(GateError, match="pole: precision 88"):
            check_run(strict, labels)
    run.calibration.write_bytes(calibration.to_json())
    with pytest.raises(GateError, match="as the calibration"):
        check_run(gate, run.root)
    run.audit.unlink()
    with pytest.raises(GateError, match="as the calibration"):
        check_run(gate, run.root)


def test_an_audit_of_other_labels_than_there_are_now_is_refused(run: Workspace, audit: Audit) -> None:
    """Where labels were added since the audit, it says nothing of them."""
    write_audit(run.audit, replace(audit, images=audit.images[1:]))
    with pytest.raises(SettingsError, match=f"is of {FLOOR_IMAGES - 1} labels.*make it again"):
        check_run(Gate.parse("precision>=0.1"), run.root)


def test_a_folder_that_is_no_run_has_nothing_to_be_judged_by(tmp_path: Path) -> None:
    """A gate on a plain label folder is refused."""
    with pytest.raises(AutocoarseError, match="is no RUN"):
        check_run(Gate.parse("precision>=0.1"), tmp_path)
