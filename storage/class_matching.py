"""Matching: which class of a schema has the name of a foreign label, or one of its synonyms.

It never guesses; a name that several classes could be is none of them.
"""

from collections import defaultdict
from collections.abc import Sequence

from storage.class_names import clean, key, synonym_keys
from storage.schema import ClassSchema


class ClassesByName:
    """The classes of a schema, by the names that they go by."""

    def __init__(self, schema: ClassSchema) -> None:
        self._exact = defaultdict[str, set[int]](set)
        self._keys = defaultdict[str, set[int]](set)
        self._firsts = defaultdict[str, set[int]](set)
        self._synonyms = defaultdict[str, set[int]](set)
        for index, info in enumerate(schema.classes):
            first, *others = synonym_keys(info.name) or ("",)
            self._exact[clean(info.name)].add(index)
            self._keys[key(info.name)].add(index)
            self._firsts[first].add(index)
            for synonym in (*others, *map(key, info.synonyms)):
                self._synonyms[synonym].add(index)
        for table in (self._keys, self._firsts, self._synonyms):
            table.pop("", None)  # names without letters and digits are all alike, and so equal only as they are written

    def named(self, label: str, name: str) -> set[int]:
        """Classes of the label's very name.

        The first way in which any class has it counts: as it is written, but for case and punctuation, or by the first
        of its synonyms.

        Args:
            label: as the teacher has it.
            name: the same, told apart from labels that are written alike.
        """
        first = synonym_keys(label)[:1]
        exact = self._exact.get(name) or self._exact.get(clean(label))
        return exact or self._keys.get(key(label)) or self._find(self._firsts, first)

    def known_as(self, label: str) -> set[int]:
        """Classes that have the label's name for a synonym, or else the name of which is a synonym of the label."""
        synonyms = synonym_keys(label)
        return self._find(self._synonyms, synonyms[:1]) or self._find(self._firsts, synonyms[1:])

    @staticmethod
    def _find(table: dict[str, set[int]], keys: Sequence[str]) -> set[int]:
        return set[int]().union(*(table.get(k, ()) for k in keys))


def match_by_name(labels: Sequence[str], names: Sequence[str], schema: ClassSchema) -> list[int | None]:
    """For each label the class that has its name, or None where none or several have.

    Args:
        labels: as the teacher has them.
        names: the same, told apart.
        schema: whose classes are wanted.
    """
    classes = ClassesByName(schema)
    return [_only(classes.named(label, name)) for label, name in zip(labels, names, strict=True)]


def match_by_synonym(labels: Sequence[str], names: Sequence[str], schema: ClassSchema) -> list[int | None]:
    """As `match_by_name`; labels of no class's name then go by synonyms, among the classes that no label names."""
    classes = ClassesByName(schema)
    named = [classes.named(label, name) for label, name in zip(labels, names, strict=True)]
    found = [_only(hits) for hits in named]
    taken = set(found)
    for position, label in enumerate(labels):
        # "buffet, counter, sideboard" is no counter where another label is just that
        if not named[position] and (index := _only(classes.known_as(label))) not in taken:
            found[position] = index
    return found


def _only(hits: set[int]) -> int | None:
    return next(iter(hits)) if len(hits) == 1 else None
