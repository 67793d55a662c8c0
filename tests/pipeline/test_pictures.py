"""Pictures: the classes' colours where they belong, and sheets that fit."""

import numpy as np
import pytest

from pipeline.pictures import HATCH, IGNORED, PAPER, contact_sheet, paint_label
from storage.errors import SettingsError, ShapeError
from storage.schema import IGNORE, ClassSchema

LABEL = np.array([[0, 1, 2, IGNORE, 0, 1]] * 8, np.uint8)
IMAGE = np.full((8, 6, 3), 200, np.uint8)


def test_labels_take_their_classes_colours(schema: ClassSchema) -> None:
    """Every class is painted in its colour, and ignore in neither a class's colour nor the paper's."""
    picture = paint_label(LABEL, schema)
    assert np.array_equal(picture[LABEL != IGNORE], schema.palette[LABEL[LABEL != IGNORE]])
    assert set(map(tuple, picture[LABEL == IGNORE].tolist())) == {IGNORED, HATCH}


@pytest.mark.parametrize("zoom", [1, 3])
def test_a_sheet_holds_every_cell_unchanged(schema: ClassSchema, zoom: int) -> None:
    """Each cell lies on the sheet at its zoom: the label in its colours, the plain image in its grey."""
    image, label = np.full((48, 64, 3), 77, np.uint8), np.full((48, 64), 2, np.uint8)
    sheet = np.asarray(contact_sheet([(image, label), (image, label)], ("image", "truth"), schema, zoom))
    assert (sheet == 77).all(-1).sum() >= 2 * 48 * 64 * zoom**2
    assert (sheet == schema.palette[2]).all(-1).sum() >= 2 * 48 * 64 * zoom**2
    assert sheet[0, 0].tolist() == list(PAPER)


def test_a_legend_that_does_not_fit_a_line_takes_more(schema: ClassSchema) -> None:
    """A narrow sheet is higher than its rows need, because the legend breaks; all colours are still there."""
    label = np.full((40, 40), IGNORE, np.uint8)
    narrow = np.asarray(contact_sheet([(label,)], ("a",), schema))
    wide = np.asarray(contact_sheet([(label,) * 8], ("a",) * 8, schema))
    assert narrow.shape[0] > wide.shape[0]
    for colour in schema.palette[: len(schema)]:
        assert (narrow == colour).all(-1).any()


def test_a_sheet_refuses_what_does_not_line_up(schema: ClassSchema) -> None:
    """No rows, rows of another length than the titles, cells of two sizes and zoom 0 are errors."""
    for rows in ([], [(IMAGE,)], [(IMAGE, LABEL), (IMAGE,)], [(IMAGE, LABEL[:4])]):
        with pytest.raises(ShapeError, match="contact sheet"):
            contact_sheet(rows, ("image", "label"), schema)
    with pytest.raises(SettingsError, match="zoom"):
        contact_sheet([(IMAGE, LABEL)], ("image", "label"), schema, zoom=0)
