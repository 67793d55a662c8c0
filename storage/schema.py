"""Class schemas: the names, colours and source ids of the classes, and the one place where ids become indices.

A schema does not read label files; it maps the values they hold.
"""

import difflib
import hashlib
import json
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from storage.errors import LabelError, MissingFileError, SchemaError
from storage.model_labels import are_placeholders, bit_colour, class_names, labels_of_config

IGNORE = 255
"""The one label value that is no class."""

MAX_CLASSES = 255
"""Class indices are stored in 8 bits and 255 is ignore."""

_SCHEMA_KEYS = frozenset({"name", "classes", "ignored_source_ids", "ignore"})
_CLASS_KEYS = frozenset({"name", "index", "id", "color", "source_ids", "synonyms"})
"""What a schema's file may say, of all and of each class."""

Ids = Literal["class", "source"]
"""What the values of a label file are: class indices, or the data set's own source ids."""

ALIASES = {"mapillary-v1.2": "mapillary"}
"""Second names of built-in schemas."""


@dataclass(frozen=True, slots=True)
class ClassInfo:
    """One class: its name, its colour and the values that stand for it in the data set's own files."""

    name: str
    color: tuple[int, int, int]
    """Red, green, blue, each 0..255."""
    source_ids: tuple[int, ...]
    """Values in files of source ids, 0..255; the first is the one written."""
    synonyms: tuple[str, ...] = ()
    """Other names that the data set gives the class, by which the labels of a foreign teacher may be known."""


@dataclass(frozen=True)
class ClassSchema:
    """The classes of a data set, in the order of their indices."""

    name: str
    classes: tuple[ClassInfo, ...]
    ignored_source_ids: frozenset[int] = frozenset()
    """Source ids that are known and are no class (Cityscapes: 'ego vehicle', 'ground', ...)."""

    def __post_init__(self) -> None:
        where = f"class schema {self.name!r}"
        if not 1 <= len(self.classes) <= MAX_CLASSES:
            raise SchemaError(f"{where}: got {len(self.classes)} classes, expected 1 to {MAX_CLASSES}")
        names = self.names
        if duplicates := sorted({n for n in names if names.count(n) > 1}):
            raise SchemaError(f"{where}: class names must be unique, got {', '.join(duplicates)} more than once")
        seen: dict[int, str] = {}
        for info in self.classes:
            if not info.name:
                raise SchemaError(f"{where}: a class has an empty name")
            if not all(0 <= v <= 255 for v in info.color):
                raise SchemaError(f"{where}: colour of {info.name!r} is {info.color}, expected three of 0..255")
            for source_id in info.source_ids:
                if not 0 <= source_id <= 255:
                    raise SchemaError(f"{where}: source id {source_id} of {info.name!r} is outside 0..255")
                if source_id in seen:
                    raise SchemaError(
                        f"{where}: source id {source_id} stands for both {seen[source_id]!r} and {info.name!r}"
                    )
                seen[source_id] = info.name

    @property
    def names(self) -> tuple[str, ...]:
        """Class names, in the order of the class indices."""
        return tuple(c.name for c in self.classes)

    def __len__(self) -> int:
        return len(self.classes)

    @cached_property
    def digest(self) -> str:
        """Hash of what decides the meaning of a class index: names and source ids, not colours."""
        content = [[c.name, list(c.source_ids)] for c in self.classes]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    @cached_property
    def palette(self) -> npt.NDArray[np.uint8]:
        """Colours by label value: (256, 3) uint8, black where no class is."""
        table = np.zeros((256, 3), np.uint8)
        table[: len(self)] = [c.color for c in self.classes]
        return table

    @cached_property
    def source_to_index(self) -> npt.NDArray[np.uint8]:
        """Lookup table from source id to class index: (256,) uint8, ignore where a source id is no class."""
        table = np.full(256, IGNORE, np.uint8)
        for index, info in enumerate(self.classes):
            for source_id in info.source_ids:
                table[source_id] = index
        return table

    @cached_property
    def index_to_source(self) -> npt.NDArray[np.uint8]:
        """Lookup table from class index to the source id that is written for it: (256,) uint8.

        Ignore, and all that is no class index, becomes the lowest source id that is ignored on purpose (Cityscapes: 0,
        'unlabeled', which its official scripts expect); 255 where there is none.

        Raises:
            SchemaError: 255 would stand for ignore, but is the source id of a class.
        """
        is_class = self.source_to_index != IGNORE
        ignored = min((v for v in self.ignored_source_ids if not is_class[v]), default=IGNORE)
        if is_class[ignored]:
            raise SchemaError(
                f"class schema {self.name!r}: {ignored} is the source id of "
                f"{self.names[self.source_to_index[ignored]]!r} and cannot also stand for ignore; "
                f"name another value in ignored_source_ids, or write class indices"
            )
        table = np.full(256, ignored, np.uint8)
        table[: len(self)] = [c.source_ids[0] for c in self.classes]
        return table

    @cached_property
    def unknown_source_ids(self) -> npt.NDArray[np.bool_]:
        """Lookup table from source id to whether it is no class, not ignored on purpose and not 255: (256,) bool."""
        ignored = np.isin(np.arange(256), [IGNORE, *self.ignored_source_ids])
        table: npt.NDArray[np.bool_] = (self.source_to_index == IGNORE) & ~ignored
        return table

    def to_indices(self, values: npt.NDArray[np.uint8], ids: Ids) -> npt.NDArray[np.uint8]:
        """Turn the values of a label file into class indices.

        Args:
            values: the file's values, any shape, uint8.
            ids: what they are. Source ids that are unknown become ignore; class indices must be legal.

        Returns:
            Class indices or ignore, same shape, uint8.

        Raises:
            LabelError: a class-index file holds a value that is neither a class index nor 255.
        """
        if ids == "source":
            return self.source_to_index[values]
        present = np.flatnonzero(np.bincount(values.ravel(), minlength=256))
        illegal = [int(v) for v in present if v >= len(self) and v != IGNORE]
        if illegal:
            raise LabelError(
                f"value {', '.join(map(str, illegal[:8]))} is no class index of {self.name!r}: expected "
                f"0..{len(self) - 1} or {IGNORE} (ignore); if the file holds source ids, say --ids source"
            )
        return values

    def to_dict(self) -> dict[str, Any]:
        """The schema as plain values, in the form that `from_dict` reads."""
        return {
            "name": self.name,
            "classes": [
                {"index": i, "name": c.name, "color": list(c.color), "source_ids": list(c.source_ids)}
                | ({"synonyms": list(c.synonyms)} if c.synonyms else {})
                for i, c in enumerate(self.classes)
            ],
            "ignored_source_ids": sorted(self.ignored_source_ids),
            "ignore": IGNORE,
        }

    @classmethod
    def from_dict(cls, content: Any, name: str) -> "ClassSchema":  # noqa: ANN401 - parsed JSON or TOML
        """Build a schema from a parsed `classes.json` or TOML table.

        Args:
            content: `{"classes": [{"id" or "index", "name", "color", "source_ids"?, "synonyms"?}, ...],
                "ignore": 255?}`.
            name: what to call it where the content does not say.

        Raises:
            SchemaError: it is malformed; the message names the entry.
        """
        where = f"class schema {name!r}"
        if not isinstance(content, dict) or not isinstance(content.get("classes"), list):
            raise SchemaError(f'{where}: expected a table with a list "classes", see the README for the form')
        _refuse_misspelt(where, content, _SCHEMA_KEYS)
        if content.get("ignore", IGNORE) != IGNORE:
            raise SchemaError(
                f"{where}: ignore is {content['ignore']}, but autocoarse always writes {IGNORE} for ignore; "
                f"leave it out, or name that value in ignored_source_ids and read the labels with --ids source"
            )
        entries = [_class_entry(where, position, raw) for position, raw in enumerate(content["classes"])]
        indices = [index for index, _ in entries]
        if sorted(indices) != list(range(len(indices))):
            raise SchemaError(f"{where}: class ids must be 0..{len(indices) - 1}, each once, got {indices}")
        classes = tuple(info for _, info in sorted(entries, key=lambda e: e[0]))
        ignored = content.get("ignored_source_ids", [])
        if not isinstance(ignored, list) or not all(type(v) is int and 0 <= v <= 255 for v in ignored):
            raise SchemaError(f"{where}: ignored_source_ids is {ignored!r}, expected a list of integers in 0..255")
        return cls(str(content.get("name", name)), classes, frozenset(ignored))


def _class_entry(where: str, position: int, raw: Any) -> tuple[int, ClassInfo]:  # noqa: ANN401
    if not isinstance(raw, dict) or not isinstance(raw.get("name"), str):
        raise SchemaError(f"{where}: entry {position} of classes needs a name, got {raw!r}")
    _refuse_misspelt(f"{where}: entry {position} of classes", raw, _CLASS_KEYS)
    index = raw.get("index", raw.get("id", position))
    color = raw.get("color", (0, 0, 0))
    source_ids = raw.get("source_ids", [index])
    if not isinstance(index, int) or isinstance(index, bool):
        raise SchemaError(f"{where}: id of {raw['name']!r} is {index!r}, expected an integer")
    if not isinstance(color, list | tuple) or not all(isinstance(v, int) for v in color):
        raise SchemaError(f"{where}: color of {raw['name']!r} is {color!r}, expected [red, green, blue]")
    if not isinstance(source_ids, list) or not all(isinstance(v, int) for v in source_ids) or not source_ids:
        raise SchemaError(f"{where}: source_ids of {raw['name']!r} is {source_ids!r}, expected a list of integers")
    synonyms = raw.get("synonyms", [])
    if not isinstance(synonyms, list) or not all(isinstance(v, str) for v in synonyms):
        raise SchemaError(f"{where}: synonyms of {raw['name']!r} is {synonyms!r}, expected a list of names")
    red_green_blue = tuple(color)
    if len(red_green_blue) != 3:
        raise SchemaError(f"{where}: color of {raw['name']!r} is {color!r}, expected [red, green, blue]")
    return index, ClassInfo(raw["name"], red_green_blue, tuple(source_ids), tuple(synonyms))


def _refuse_misspelt(where: str, table: dict[str, Any], known: frozenset[str]) -> None:
    """Refuse a key that is nearly a known one: what it says would be lost. Others, of other programs, are their own."""
    for key in table.keys() - known:
        near = difflib.get_close_matches(key, known - table.keys(), 1, 0.75)
        if near:
            raise SchemaError(f"{where} has the unknown key {key!r}; did you mean {near[0]}?")


def builtin_schemas() -> tuple[str, ...]:
    """Names of the schemas that come with autocoarse, second names included."""
    folder = resources.files("storage") / "schemas"
    files = (f.name.removesuffix(".json") for f in folder.iterdir() if f.name.endswith(".json"))
    return tuple(sorted((*files, *ALIASES)))


def load_schema(name_or_file: str) -> ClassSchema:
    """Find a schema by its built-in name, or read a user's own from a file.

    Args:
        name_or_file: a built-in name, or the path of a JSON or TOML file: one of autocoarse's form, or the
            `config.json` of a transformers model, whose labels become the classes.

    Raises:
        MissingFileError: it is neither a built-in name nor a file.
        SchemaError: the file is malformed.
        SettingsError: it is a model's configuration whose labels cannot be told.
    """
    if name_or_file in builtin_schemas():
        name = ALIASES.get(name_or_file, name_or_file)
        text = (resources.files("storage") / "schemas" / f"{name}.json").read_text("utf-8")
        return ClassSchema.from_dict(json.loads(text), name)
    path = Path(name_or_file)
    if not path.is_file():
        raise MissingFileError(
            f"no class schema {name_or_file!r}: expected one of {', '.join(builtin_schemas())}, "
            f"or the path of a classes.json or .toml file, or of a transformers model's config.json"
        )
    try:
        text = path.read_text("utf-8")
        content = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (ValueError, RecursionError) as error:  # both parsers' errors are values; nested too deep is recursion
        raise SchemaError(f"{path}: cannot be parsed as {path.suffix or 'JSON'}: {error}") from error
    if isinstance(content, dict) and "id2label" in content and "classes" not in content:
        return _schema_of_model(content, path)
    return ClassSchema.from_dict(content, path.stem)


def schema_of_labels(labels: Sequence[str], name: str) -> ClassSchema:
    """The schema of a teacher's own labels, in their order, named as in `class_names`; source ids are class indices.

    Raises:
        SchemaError: there are no labels, or more than label files can hold.
        SettingsError: there are far more, or such as are no names.
    """
    classes = enumerate(class_names(labels))
    return ClassSchema(name, tuple(ClassInfo(own, bit_colour(i + 1), (i,), others) for i, (own, others) in classes))


def _schema_of_model(config: dict[str, Any], path: Path) -> ClassSchema:
    labels = labels_of_config(config, str(path))
    if are_placeholders(labels):
        raise SchemaError(
            f"{path}: its labels are only numbered ({labels[0]}, ...); write a classes.json that names the "
            f"{len(labels)} classes, see the README for the form"
        )
    # every model's file has the name config.json; its folder's tells them apart
    return schema_of_labels(labels, path.resolve().parent.name or path.stem)
