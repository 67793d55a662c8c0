"""Class tables: which class of a schema each label of a foreign teacher is.

It finds classes by name or by a table and refuses what is in doubt. It neither loads teachers nor adds anything up.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import tomli_w

from storage.class_matching import match_by_name, match_by_synonym
from storage.class_names import clean, guess, near
from storage.errors import SettingsError
from storage.model_labels import MAX_NAME, are_placeholders, unique_names
from storage.schema import ClassSchema

SHOWN = 12
"""Lines of a proposal that an error shows."""


@dataclass(frozen=True, slots=True)
class ClassTable:
    """Which class of a schema each label of a foreign teacher is.

    Several labels may be one class: their probabilities are to be added up. A class that no label is (`absent`) is
    never predicted.
    """

    targets: tuple[int | None, ...]
    """For each label of the teacher, in the order of its outputs: a class index, or None where it is no class."""
    labels: tuple[str, ...] = ()
    """Names of the teacher's labels, unique, as class tables know them."""
    classes: tuple[str, ...] = ()
    """Names of the schema's classes."""

    @property
    def unmapped(self) -> tuple[str, ...]:
        """Labels that are no class of the schema."""
        labels = self.labels or tuple(map(str, range(len(self.targets))))
        return tuple(label for label, target in zip(labels, self.targets, strict=True) if target is None)

    @property
    def absent(self) -> tuple[str, ...]:
        """Classes that no label is."""
        return tuple(name for index, name in enumerate(self.classes) if index not in self.targets)


def match_classes(
    labels: Sequence[str], schema: ClassSchema, table: Mapping[str, str | None] | None = None
) -> ClassTable:
    """Find the class of each label of a teacher.

    Without a table by name: case, spaces and punctuation do not count, of "car, auto, automobile" any synonym will do
    where it is the name of one class alone, and a label that is a class only by a synonym stands back where another is
    it by its name. Labels without a class are `unmapped`. With a table each label must be in it, or be a class by its
    very name: what is missing is an error that proposes the lines.

    Args:
        labels: the teacher's, in the order of its outputs. Empty names and repeated ones are told apart as in
            `schema_of_labels`.
        schema: whose classes are wanted.
        table: the class of labels, by name; "" or None where a label is none on purpose.

    Raises:
        SettingsError: the table names what is no label or no class, or leaves labels out; or no label is any class.
    """
    names = unique_names(labels)
    if not names:
        raise SettingsError("the teacher has no labels, so none can be a class")
    if table is None:
        targets = match_by_synonym(labels, names, schema)
        problem = f"none of the teacher's {len(names)} labels has the name of a class of {schema.name!r}"
    else:
        targets = _by_table(labels, names, schema, table)
        problem = f"the class table makes no label any class of {schema.name!r}"
    if all(target is None for target in targets):
        if are_placeholders(names):
            problem += f"; they are only numbered ({names[0]}, ...), so whoever trained it must tell what they are"
        raise SettingsError(f"{problem}. Say in a class table what each is:\n{_proposal(labels, schema)}")
    return ClassTable(tuple(targets), names, schema.names)


def propose(labels: Sequence[str], schema: ClassSchema) -> dict[str, str | None]:
    """The most likely class of each label, for a person to check.

    Returns:
        By label, in their order: the class `match_classes` finds, or else the nearest by a list of well-known
        synonyms and by spelling; None where nothing is near.

    Raises:
        SettingsError: the labels are no names.
    """
    names = unique_names(labels)
    found = match_by_synonym(labels, names, schema)
    guesses = iter(guess([label for label, i in zip(labels, found, strict=True) if i is None], schema.names))
    chosen = [next(guesses) if i is None else i for i in found]
    return {name: None if i is None else schema.names[i] for name, i in zip(names, chosen, strict=True)}


def table_text(labels: Sequence[str], schema: ClassSchema) -> str:
    """A class table to edit, as TOML: all labels, each with the class that `propose` gives it, or "".

    Guesses are marked by a comment. What `tomllib` reads of it as "classes" is a table for `match_classes`.
    """
    proposed, sure = propose(labels, schema), match_by_synonym(labels, unique_names(labels), schema)
    lines = [
        f"# Which class of {clean(schema.name)} each label of the teacher is. Labels of one class are added up;",
        '# "" is no class: such pixels are not labelled. Check the guesses.',
        "[classes]",
    ]
    for (label, name), index in zip(proposed.items(), sure, strict=True):
        lines.append(_line(label, name) + ("  # a guess" if name is not None and index is None else ""))
    if absent := [clean(name) for name in schema.names if name not in proposed.values()]:
        lines.append(f"# Never predicted, as no label is one: {', '.join(absent)}.")
    return "\n".join(lines) + "\n"


def _by_table(
    labels: Sequence[str], names: Sequence[str], schema: ClassSchema, table: Mapping[str, str | None]
) -> list[int | None]:
    chosen = {clean(label): name for label, name in table.items()}
    index_of = {name: index for index, name in enumerate(schema.names)}
    if wrong := [label for label in chosen if label not in names]:
        lines = [f"{label[:MAX_NAME]!r}{_perhaps(label, names)}" for label in wrong[:SHOWN]]
        raise SettingsError(f"the class table has what is no label of the teacher:\n{_cut(lines, len(wrong))}")
    if astray := [(label, str(name)) for label, name in chosen.items() if name not in ("", None, *schema.names)]:
        lines = [f"{label!r}: {name[:MAX_NAME]!r}{_perhaps(name, schema.names)}" for label, name in astray[:SHOWN]]
        raise SettingsError(f"the class table has what is no class of {schema.name!r}:\n{_cut(lines, len(astray))}")
    same = match_by_name(labels, names, schema)
    if missing := {n for n, index in zip(names, same, strict=True) if index is None and n not in chosen}:
        raise SettingsError(
            f'the class table leaves out {len(missing)} of the teacher\'s {len(names)} labels. Say what each is; "" is '
            f"no class:\n{_proposal(labels, schema, missing)}"
        )
    told = {label: index_of[name] if name else None for label, name in chosen.items()}
    return [told.get(name, index) for name, index in zip(names, same, strict=True)]


def _perhaps(name: str, names: Sequence[str]) -> str:
    alike = " or ".join(repr(other) for other in near(name, names))
    return f"; is {alike} meant?" if alike else ""


def _proposal(labels: Sequence[str], schema: ClassSchema, wanted: Collection[str] | None = None) -> str:
    """Lines of a class table for the wanted labels (all by default), those with a class first."""
    lines = [
        (name is None, _line(label, name))
        for label, name in propose(labels, schema).items()
        if wanted is None or label in wanted
    ]
    return _cut([line for _, line in sorted(lines, key=lambda entry: entry[0])], len(lines))


def _cut(lines: Sequence[str], count: int) -> str:
    """The first lines of so many."""
    return "\n".join([*lines[:SHOWN], *([f"... and {count - SHOWN} more"] if count > SHOWN else [])])


def _line(label: str, name: str | None) -> str:
    return tomli_w.dumps({label: name or ""}).strip()
