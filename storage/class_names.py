"""Names of classes as data sets write them: when two of them are the same name, and which is meant by a foreign one.

It compares names; it knows no schemas and decides nothing about labels.
"""

import difflib
import re
import unicodedata
from collections.abc import Mapping, Sequence

SAME_THINGS: tuple[tuple[str, ...], ...] = (
    # What street and everyday data sets call what others name differently, or split, as `key` writes it. A guess takes
    # the first name of the row that the schema has, so the name of the whole stands before those of its parts.
    ("person", "pedestrian", "people", "human"),
    ("rider", "bicyclist", "cyclist", "motorcyclist", "otherrider"),  # Cityscapes; CamVid and Mapillary split them
    ("bicycle", "bike"),
    ("motorcycle", "motorbike", "minibike"),  # VOC: motorbike; ADE20K: minibike
    ("car", "automobile", "van"),
    ("train", "tram", "onrails"),  # Mapillary: on rails
    ("road", "street", "lanemarking", "crosswalk"),  # Mapillary: the paint is a class of its own
    ("sidewalk", "pavement", "footpath"),
    ("building", "house", "skyscraper"),
    ("trafficsign", "sign", "signsymbol", "streetsign", "stopsign"),
    ("trafficlight", "trafficsignal", "stoplight"),
    ("vegetation", "tree", "plant", "bush"),
    ("terrain", "grass", "earth", "ground"),
    ("pole", "utilitypole"),
    ("sky", "clouds"),
    ("airplane", "aeroplane", "plane"),
    ("sofa", "couch"),
    ("tv", "tvmonitor", "television", "televisionreceiver"),
    ("table", "diningtable"),
)

_LEFTOVERS = frozenset({"other", "stuff", "merged"})
"""Last words of names of COCO-Stuff and COCO panoptic that say how the class was made, not what it is."""

_NEAR = 0.85
"""How alike two keys must be for a guess: another ending or a slip of the pen, but not river and rider."""


def clean(name: str) -> str:
    """The name with single spaces, and without what cannot be printed."""
    return " ".join("".join(c if c.isprintable() else " " for c in name).split())


def key(name: str) -> str:
    """What of a name counts when names are compared: letters and digits, without case, and commas between synonyms.

    "Traffic Sign (Front)", "traffic-sign_front" and "trafficsignfront" have one key.
    """
    return ",".join(filter(None, map(_plain, name.split(","))))


def synonym_keys(name: str) -> tuple[str, ...]:
    """Keys of the synonyms of "car, auto, automobile", the first of which is the name proper."""
    return tuple(filter(None, map(_plain, name.split(","))))


def told_apart(names: Sequence[str]) -> tuple[str, ...]:
    """The names, clean and unique: an empty one becomes "unnamed 3", a repeated one "sky (label 3)", by position."""
    cleaned = [clean(name) or f"unnamed {position}" for position, name in enumerate(names)]
    taken, unique = set(cleaned), dict[str, None]()
    for position, name in enumerate(cleaned):
        other = name
        while other in unique or (other != name and other in taken):
            other += f" (label {position})"
        unique[other] = None
    return tuple(unique)


def near(name: str, names: Sequence[str]) -> list[str]:
    """Up to three of the names that are written nearly like this one, the most alike first."""
    by_key = {k: other for other in reversed(names) for k in (*reversed(synonym_keys(other)), key(other))}
    alike = difflib.get_close_matches(key(name), list(by_key), 3, 0.6)
    return list(dict.fromkeys(by_key[found] for found in alike))


def guess(wanted: Sequence[str], names: Sequence[str]) -> list[int | None]:
    """Which of these names is most likely meant by each that is none of them.

    Returns:
        For each wanted name the position of the one meant, or None where nothing is near.
    """
    own: dict[str, int] = {}
    for position, name in enumerate(names):
        for candidate in filter(None, (*synonym_keys(name)[:1], _core(name))):
            own.setdefault(candidate, position)
    return [_guess_one(name, own) for name in wanted]


def _guess_one(name: str, own: Mapping[str, int]) -> int | None:
    wanted = tuple(filter(None, (*synonym_keys(name), *map(_core, name.split(",")))))
    for candidate in wanted:
        if candidate in own:
            return own[candidate]
    for row in SAME_THINGS:
        if not set(row).isdisjoint(wanted):
            for candidate in row:
                if candidate in own:
                    return own[candidate]
    found = difflib.get_close_matches(wanted[0], list(own), 1, _NEAR) if wanted else ()
    return own[found[0]] if found else None


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", name).casefold())


def _core(name: str) -> str:
    """Key of a name without what narrows it: "Traffic Light - Cyclists" and "building-other" lose the second half."""
    words = re.findall(r"[^\W_]+", re.split(r" - | \(", name)[0].casefold())
    while len(words) > 1 and words[-1] in _LEFTOVERS:
        words.pop()
    return "".join(words)
