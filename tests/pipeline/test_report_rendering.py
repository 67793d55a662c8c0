"""The text of a report's files: what must hold of it without a browser."""

import base64
import hashlib
import json
import re
import zlib

import numpy as np
import pytest

from pipeline.report_form import Bytes, ClassRow, Counts, ItemColumns, Summary, Thumb, embedded, packed
from pipeline.report_rendering import items_script, page, thumbs_script

EVIL = "</script><!--<script>\u2028\u2029&'\""


def make_summary(title: str) -> Summary:
    """The least that a page can be made of."""
    return Summary(title, (), (ClassRow(title, (1, 2, 3), 4),), Counts(1), Bytes(1, 2, 3), ("auto",))


def make_columns(key: str, classes: tuple[int, ...]) -> ItemColumns:
    """One item."""
    share = (0.123456,)
    return ItemColumns(
        (key,), ("a",), (0,), (8,), (6,), ("done",), (False,), share, (None,), share, share, (classes,), (0,)
    )


def arguments_of(script: str, function: str) -> str:
    """What a data script calls the page's function with."""
    found = re.fullmatch(rf"window\.autocoarse\.{function}\((.*)\);\n", script, re.DOTALL)
    assert found is not None
    return found[1]


def test_data_cannot_end_its_script() -> None:
    """Neither the page's summary nor a data script holds markup or a line end of a script, and both say the same."""
    html = page(make_summary(EVIL))
    data = re.search(r'<script type="application/json" id="summary">(.*?)</script>', html, re.DOTALL)
    assert data is not None
    assert json.loads(data[1])["title"] == EVIL
    table = arguments_of(items_script(make_columns(EVIL, ()), 1), "addItems")
    assert json.loads(table)["key"] == [EVIL]
    for text in (data[1], table):
        assert not set(text) & set("<>&\u2028\u2029")
    title = re.search(r"<title>(.*?)</title>", html, re.DOTALL)
    assert title is not None
    assert "<" not in title[1]


def test_only_the_page_s_own_script_and_style_may_run() -> None:
    """The policy names the hashes of exactly what is inlined, and no other address than the folder's."""
    html = page(make_summary("run"))
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy is not None
    for tag in ('<script type="module">', "<style>"):
        inlined = html.split(tag)[1].split(f"</{tag[1:].split()[0].rstrip('>')}>")[0]
        digest = base64.b64encode(hashlib.sha256(inlined.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy[1].replace("&#43;", "+")
    assert policy[1].startswith("default-src 'none'")
    assert "unsafe" not in policy[1]
    assert not re.search(r'(?:src|href)="(?:https?:)?//', html)


def test_classes_of_items_are_bits() -> None:
    """A row of whole bytes an item, class 0 the lowest bit; shares are rounded, and what is not known is null."""
    table = json.loads(arguments_of(items_script(make_columns("k", (0, 9)), 11), "addItems"))
    assert base64.b64decode(table["classes"]) == bytes([0b00000001, 0b00000010])
    assert table["ignore"] == [0.1235]
    assert table["confidence"] == [None]


def test_label_maps_come_back() -> None:
    """A packed label map holds its rows, whatever its memory looked like, and an absent layer is left out."""
    labels = np.arange(48, dtype=np.uint8).reshape(6, 8)
    thumb = Thumb(8, 6, embedded(b"jpeg"), {"auto": packed(labels.T.copy().T)})
    entries = json.loads(arguments_of(thumbs_script(50, [thumb]), "addThumbs").removeprefix("50, "))
    assert zlib.decompress(base64.b64decode(entries[0]["auto"])) == labels.tobytes()
    assert base64.b64decode(entries[0]["image"]) == b"jpeg"
    assert "coarse" not in entries[0]
    assert thumb.size >= len(entries[0]["auto"]) + len(entries[0]["image"])


def test_a_number_that_json_lacks_is_refused() -> None:
    """A share that is not a number fails when the page is made, not silently in the browser."""
    with pytest.raises(ValueError, match="JSON"):
        page(Summary("t", (), (), Counts(1), Bytes(1, 2, 3), (), labelled=float("nan")))
