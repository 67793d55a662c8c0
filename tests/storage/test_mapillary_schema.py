"""The built-in classes of Mapillary Vistas 1.2."""

import numpy as np

from storage.schema import IGNORE, load_schema


def test_classes_are_those_of_the_published_configuration() -> None:
    """65 classes with names and colours of their own, in the published order."""
    schema = load_schema("mapillary")
    assert len(schema) == 65
    assert len(set(schema.names)) == 65
    assert len({info.color for info in schema.classes}) == 65
    published = {
        0: ("Bird", (165, 42, 42)),
        2: ("Curb", (196, 196, 196)),
        13: ("Road", (128, 64, 128)),
        24: ("Lane Marking - General", (255, 255, 255)),
        27: ("Sky", (70, 130, 180)),
        47: ("Utility Pole", (0, 0, 80)),
        50: ("Traffic Sign (Front)", (220, 220, 0)),
        55: ("Car", (0, 0, 142)),
        64: ("Ego Vehicle", (120, 10, 10)),
    }
    assert {i: (schema.classes[i].name, schema.classes[i].color) for i in published} == published


def test_label_files_hold_class_indices_and_65_for_unlabelled() -> None:
    """Values 0..64 are the classes, 65 is known and ignored, anything else is unknown."""
    schema = load_schema("mapillary")
    values = np.arange(256, dtype=np.uint8)
    indices = schema.to_indices(values, "source")
    assert indices[:65].tolist() == list(range(65))
    assert set(indices[65:].tolist()) == {IGNORE}
    assert np.flatnonzero(schema.unknown_source_ids).tolist() == list(range(66, 255))
