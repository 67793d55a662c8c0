"""What is said of classes that labels have no pixel of."""

from pipeline.absent_classes import warn_of_absent
from storage.schema import load_schema


def test_many_absent_classes_are_not_all_named() -> None:
    """A few names and a count stand for 146 of 150, and nothing is guessed of labels of several classes."""
    schema = load_schema("ade20k")
    warning = warn_of_absent([1] * 4 + [0] * 146, schema, "none has {}: alas")
    assert warning == f"none has {', '.join(schema.names[4:9])} and 141 more: alas"


def test_the_likely_cause_is_told_where_one_class_alone_has_pixels() -> None:
    """Masks of 0 and 255 look so, in which 255 may be meant as a class."""
    schema = load_schema("camvid")
    warning = warn_of_absent([9] + [0] * 10, schema, "none has {}")
    assert "Only sky has any: 255 is ignored" in warning
    assert warning.endswith("source_ids and say --ids source")


def test_nothing_is_said_where_all_classes_have_pixels() -> None:
    """No warning is an empty one."""
    assert warn_of_absent([1] * 11, load_schema("camvid"), "none has {}") == ""
