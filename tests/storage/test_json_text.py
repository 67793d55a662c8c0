"""JSON that something has become of."""

import pytest

from storage.json_text import parse_json
from storage.label_png import parse_provenance


@pytest.mark.parametrize(
    "content",
    ["[" * 100_000, b'{"a":' * 100_000, "torn {", b"\xff\xff"],
    ids=["deep list", "deep table", "torn", "no text"],
)
def test_what_is_no_json_is_one_kind_of_error(content: str | bytes) -> None:
    """Text that is cut off, no text, or nested deeper than Python follows is a value that cannot be."""
    with pytest.raises(ValueError, match=r"."):
        parse_json(content)


def test_a_label_says_nothing_where_its_text_is_nested_too_deep() -> None:
    """The text of a PNG that anyone wrote never ends the reading of labels."""
    assert parse_provenance("[" * 100_000) == {}
