"""One item of a merging run: two labels of an image read, merged, published, and what is remembered of it.

Which pairs there are is decided in `merge_plan`; the entry is recorded by `merging`.
"""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from pipeline.merge import Border, MergeCounts, Policy, merge_labels
from pipeline.publishing import publish_label
from pipeline.settings import settings_digest
from storage.errors import AutocoarseError, LabelError, SettingsError, ShapeError
from storage.label_map import LabelMap
from storage.label_png import read_label_png
from storage.layouts import LabelFile
from storage.ledger import Entry
from storage.object_io import file_digest
from storage.schema import IGNORE, ClassSchema
from storage.workspace import Workspace


class ImageMark(NamedTuple):
    """What an auto RUN's ledger says of the image: size, time and hash of its file; empty where nothing does."""

    bytes: int = 0
    modified_ns: int = 0
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class LabelPair:
    """The labels of one image; at least one of them is there."""

    key: str
    """What the two share: relative posix path without suffix."""
    coarse: LabelFile | None
    auto: LabelFile | None
    image: ImageMark


class Mark(NamedTuple):
    """A parent's file as it was when it was merged."""

    bytes: int
    modified_ns: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> Self:
        """Look at a file; to be done before it is read, so that one replaced meanwhile disagrees later."""
        found = path.stat()
        return cls(found.st_size, found.st_mtime_ns, file_digest(path))


class Marks(NamedTuple):
    """Both parents' files; None where there is none."""

    coarse: Mark | None
    auto: Mark | None


@dataclass(frozen=True, slots=True)
class Merged:
    """One merged image: its entry, and what is noted beside it so that no later run has to read the labels again."""

    entry: Entry
    marks: Marks
    counts: MergeCounts

    def note(self) -> dict[str, object]:
        """What goes into the ledger beside the entry."""
        return {"parents": self.marks, "counts": asdict(self.counts)}

    @classmethod
    def from_note(cls, entry: Entry, note: Mapping[str, Any]) -> Self:
        """Read what `note` gave."""
        coarse, auto = (None if mark is None else Mark(*mark) for mark in note["parents"])
        counts: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in note["counts"].items()}
        return cls(entry, Marks(coarse, auto), MergeCounts(**counts))


def pair_digest(digest: str, pair: LabelPair, marks: Marks) -> str:
    """Digest of what decides one merged label.

    Args:
        digest: of the settings that decide pixels.
        pair: the files, and what their values are.
        marks: what is in them.
    """
    parents = [
        None if file is None or mark is None else [file.ids, mark.sha256]
        for file, mark in zip((pair.coarse, pair.auto), marks, strict=True)
    ]
    return settings_digest({"settings": digest, "parents": parents})


@dataclass(frozen=True, slots=True)
class PairMerger:
    """How each pair of a run is merged, and where to; threads may share it."""

    workspace: Workspace
    schema: ClassSchema
    policy: Policy
    union_classes: tuple[int, ...]
    border_ignore: Border
    digest: str
    """Of the settings that decide pixels."""

    def merge(self, pair: LabelPair) -> Merged | Entry:
        """Merge one pair and publish the label.

        Returns:
            The merged item, or the failed entry with the reason: what is wrong with a pair costs it alone.

        Raises:
            WorkspaceError: the label cannot be written.
        """
        started = time.perf_counter()
        try:
            marks = Marks(*(None if file is None else Mark.of(file.path) for file in (pair.coarse, pair.auto)))
            label, counts = self._merge(pair)
        except AutocoarseError as error:
            return self.failure(pair.key, str(error))
        except OSError as error:
            return self.failure(pair.key, f"{error.filename}: cannot be read: {error.strerror or error}")
        except MemoryError as error:
            return self.failure(pair.key, f"{pair.key}: out of memory: {error}")
        entry = publish_label(
            self.workspace,
            pair.key,
            label,
            self._provenance(marks),
            settings_digest=pair_digest(self.digest, pair, marks),
            image_bytes=pair.image.bytes,
            image_modified_ns=pair.image.modified_ns,
            image_sha256=pair.image.sha256,
            seconds=time.perf_counter() - started,
        )
        return Merged(entry, marks, counts)

    def failure(self, key: str, reason: str) -> Entry:
        """The entry of an item that cannot be merged."""
        return Entry(key=key, status="failed", settings_digest=self.digest, reason=reason)

    def _merge(self, pair: LabelPair) -> tuple[LabelMap, MergeCounts]:
        files = [file for file in (pair.coarse, pair.auto) if file is not None]
        labels = [read_label_png(file.path, self.schema, file.ids) for file in files]
        blank = LabelMap(np.full_like(labels[0].values, IGNORE), len(self.schema))
        coarse = blank if pair.coarse is None else labels[0]
        auto = blank if pair.auto is None else labels[-1]
        try:
            return merge_labels(coarse, auto, self.policy, self.union_classes, self.border_ignore)
        except (ShapeError, SettingsError) as error:
            raise LabelError(f"{' and '.join(str(file.path) for file in files)}: {error}") from error

    def _provenance(self, marks: Marks) -> dict[str, str | float]:
        parents = {f"{side}_sha256": mark.sha256 for side, mark in marks._asdict().items() if mark is not None}
        return {
            "settings": self.digest,
            "policy": self.policy,
            "classes": self.schema.digest,
            "version": version("autocoarse"),
            **parents,
        }
