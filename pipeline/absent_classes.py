"""Classes that labels have no pixel of: what is said of them, and of what may be the cause.

What their absence means is its caller's to say.
"""

from collections.abc import Iterable, Sequence

from storage.schema import ClassSchema

TRUTH_LACKS = "the truth has no pixel of {}: no recall is known; where it should have some, see --ids and --classes"
"""What it means where labels are judged."""

_NAMED = 5


def warn_of_absent(pixels: Iterable[int], schema: ClassSchema, meaning: str) -> str:
    """A warning of the classes that labels have no pixel of; empty where they have some of each.

    Args:
        pixels: of the labels, by class index.
        schema: the classes.
        meaning: the warning, with {} where their names are to stand.
    """
    present = [bool(count) for count in pixels]
    absent = [name for name, there in zip(schema.names, present, strict=True) if not there]
    if not absent:
        return ""
    warning = meaning.format(name_few(absent))
    if sum(present) == 1:
        warning += (
            f". Only {schema.names[present.index(True)]} has any: 255 is ignored; where it is a class, as in masks "
            f"of 0 and 255, put it into that class's source_ids and say --ids source"
        )
    return warning


def name_few(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
