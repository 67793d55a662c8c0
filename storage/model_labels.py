"""The labels of a foreign model: as its configuration has them, and the names and colours of classes they make.

It knows no schemas; which class of one a label is, is found in `class_table`.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from storage.class_names import clean, key, synonym_keys, told_apart
from storage.errors import SettingsError

MAX_LABELS = 4096
"""Of a teacher; the largest published lists have under 4,000."""

MAX_NAME = 300
"""Characters of a label's name; the longest of ADE20K has 113."""


def unique_names(labels: Sequence[str]) -> tuple[str, ...]:
    """Names of a model's labels, of which no two are alike.

    Raises:
        SettingsError: they are far too many, or such as are no names.
    """
    if len(labels) > MAX_LABELS or any(len(label) > MAX_NAME for label in labels):
        raise SettingsError(
            f"the teacher has {len(labels)} labels of up to {max(map(len, labels))} characters, expected at most "
            f"{MAX_LABELS} labels of at most {MAX_NAME}; are these names?"
        )
    return told_apart(labels)


def class_names(labels: Sequence[str]) -> list[tuple[str, tuple[str, ...]]]:
    """The name of a class that each label makes, all different, and its synonyms.

    A name with synonyms ("car, auto, automobile") is cut to the first where that tells the classes apart. An empty
    name becomes "unnamed 3", and a repeated one "sky (label 3)", by the label's position.

    Raises:
        SettingsError: as `unique_names`.
    """
    names = unique_names(labels)
    count = Counter(first for label in names for first in synonym_keys(label)[:1])
    found = []
    for label, own in zip(labels, names, strict=True):
        short, *synonyms = [part for part in map(clean, label.split(",")) if key(part)] or [own]
        told = count[key(short)] <= 1 and own == clean(label)
        found.append((short, tuple(synonyms)) if told else (own, ()))
    return found


def labels_of_config(config: object, name: str) -> tuple[str, ...]:
    """The labels of a transformers model in the order of its outputs.

    Args:
        config: the parsed `config.json`; its "id2label" has integers for keys, or texts of them, in any order.
        name: of the model or file, for errors.

    Raises:
        SettingsError: there are none, they have gaps, or they are no names.
    """
    table = config.get("id2label") if isinstance(config, Mapping) else None
    if not isinstance(table, Mapping) or not table:
        raise SettingsError(f'{name}: expected a model\'s configuration with a table "id2label" of its labels')
    if len(table) > MAX_LABELS:
        raise SettingsError(f"{name}: id2label has {len(table)} labels, expected at most {MAX_LABELS}")
    labels: dict[int, str] = {}
    for number, label in table.items():
        output = _output(number)
        if output is None:
            shown = repr(number[:40]) if isinstance(number, str) else type(number).__name__
            raise SettingsError(f"{name}: id2label has the id {shown}, expected the numbers of outputs, from 0")
        if not isinstance(label, str) or len(label) > MAX_NAME or not label.isprintable():
            raise SettingsError(f"{name}: id2label names {output} by no text of at most {MAX_NAME} printable letters")
        if output in labels:
            raise SettingsError(f"{name}: id2label names {output} twice")
        labels[output] = label
    if missing := [i for i in range(len(labels)) if i not in labels]:
        raise SettingsError(
            f"{name}: id2label has {len(labels)} labels, but none of the id {missing[0]}; outputs cannot be told from "
            f"ids with gaps, so write out what each output is, from 0"
        )
    return tuple(labels[i] for i in range(len(labels)))


def _output(number: object) -> int | None:
    if isinstance(number, str) and re.fullmatch("0|[1-9][0-9]{0,8}", number):
        return int(number)
    return number if type(number) is int and 0 <= number < 10**9 else None


def are_placeholders(labels: Sequence[str]) -> bool:
    """Whether the labels are those that transformers writes where nobody named them: LABEL_0, LABEL_1, ..."""
    return all(re.fullmatch("LABEL_[0-9]+", label) for label in labels)


def bit_colour(index: int) -> tuple[int, int, int]:
    """The colour of a class in the palette of Pascal VOC: 0 is black, and 0..255 are all different.

    Bits of the index go in turns to red, green and blue, the lowest to the highest bit of the colour. Source: VOCcode
    of the VOC development kit, VOClabelcolormap.
    """
    red = green = blue = 0
    for shift in range(7, -1, -1):
        red |= (index & 1) << shift
        green |= (index >> 1 & 1) << shift
        blue |= (index >> 2 & 1) << shift
        index >>= 3
    return red, green, blue
