"""One label of a ledger that is made anew: what proves it to be of the run, and the entry that it gets.

Nothing is written; threads share what is here. A label says which image it was made from by its hash. Of one that was
made before labels did, the image in its place is taken for that one where it has the label's size and is not newer than
the label; where the old ledger can still be asked, that decides.
"""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.publishing import IMAGE_SHA256
from pipeline.verify_item import ItemCheck, read_label_file
from pipeline.verify_problem import Kind, Problem
from storage.agreement import image_agrees
from storage.errors import ImageError, LabelError
from storage.image_reader import read_image_size
from storage.integrity import ProvenLabel, read_proven_label
from storage.ledger import Entry
from storage.object_io import file_digest, file_info
from storage.shard import Shard


@dataclass(frozen=True, slots=True)
class FoundLabel:
    """A file in a label's place."""

    key: str
    path: Path
    image: Path | None
    """The run's image of this key; None: there is none, or more than one."""
    before: Entry | None = None
    """What the old ledger says, where it can still be read: not believed, but where it speaks of this very label."""
    made: Entry | None = None
    """What an earlier rebuilding, which was stopped, has made of it."""


@dataclass(frozen=True, slots=True)
class LookedAt:
    """What became of a file in a label's place."""

    found: FoundLabel
    entry: Entry | None
    problem: Problem | None = None
    """Why it has no entry."""
    pixels: str = ""
    """As `pixel_digest`; empty where no confidence is kept."""


def pixel_digest(values: npt.NDArray[np.uint8]) -> str:
    """Hash of a label's class indices and its size."""
    return hashlib.sha256(repr(values.shape).encode() + np.ascontiguousarray(values).tobytes()).hexdigest()


class _NotProvenError(Exception):
    """Ends the look at a label that gets no entry."""


@dataclass(frozen=True)
class LabelProof:
    """What the labels of a run are known by."""

    check: ItemCheck
    shard: Shard | None
    """Whose labels they are; None: of all images."""

    def look(self, found: FoundLabel) -> LookedAt:
        """Look at a label, and at its image.

        Raises:
            WorkspaceError: the image is in a store that does not answer.
        """
        if found.made is not None:
            return LookedAt(found, found.made)
        try:
            entry, label = self._read(found)
            entry = _with_image(entry, found, label.provenance.get(IMAGE_SHA256))
        except _NotProvenError as error:
            kind, reason = error.args
            return LookedAt(found, None, Problem(kind, found.key, reason, damage=False))
        pixels = "" if self.check.store is None else pixel_digest(self.check.form.to_indices(label.values))
        return LookedAt(found, entry, pixels=pixels)

    def _read(self, found: FoundLabel) -> tuple[Entry, ProvenLabel]:
        """The entry of a label, without its image."""
        try:
            file = file_info(found.path)
            content = read_label_file(found.path)
            label = read_proven_label(content)
        except LabelError as error:
            raise _not("undecodable", f"the label {error}") from error
        except OSError as error:
            raise _not("undecodable", f"the label cannot be read: {error.strerror or error}") from error
        if self.shard is not None and not self.shard.holds(found.key):
            raise _not("stray", f"it is of another shard than {self.shard}")
        said = label.provenance.get("settings")
        if said != self.check.digest:
            what = "does not say what it was made with" if said is None else f"says settings {said}"
            raise _not("foreign settings", f"the label {what}, the run's are {self.check.digest}: not by this run")
        counts = self.check.count(label)
        if isinstance(counts, str):
            raise _not("illegal value", f"the label {counts}")
        tile = label.provenance.get("tile")
        return Entry(
            key=found.key,
            status="done",
            settings_digest=self.check.digest,
            height=label.size[0],
            width=label.size[1],
            ignored=int(counts[-1]),
            bytes=len(content),
            modified_ns=file.modified_ns,
            sha256=hashlib.sha256(content).hexdigest(),
            counts=tuple(counts[: len(self.check.form.names)].tolist()),
            reason="" if tile is None else f"for want of memory labelled in tiles of {tile} pixels",
        ), label


def _not(kind: Kind, reason: str) -> _NotProvenError:
    return _NotProvenError(kind, reason)


def _with_image(entry: Entry, found: FoundLabel, said: str | float | None) -> Entry:
    """The entry with its image; without one, nothing that any image agrees with.

    Args:
        entry: of the label.
        found: the label, and the image in its place.
        said: hash of its image, as the label says; None: it does not.
    """
    if found.image is None:
        return entry
    try:
        file = file_info(found.image)
        size = read_image_size(found.image)
        if size != (entry.height, entry.width):
            reason = f"the label is {entry.width}x{entry.height}, its image is {size[1]}x{size[0]}"
            raise _not("wrong size", reason)
        digest = file_digest(found.image)
    except (ImageError, FileNotFoundError) as error:
        raise _not("unfinished", f"its image cannot be read: {error}") from error
    if said is not None:
        if digest != said:
            raise _not("unfinished", "its image is not the one that the label says it was made from")
    elif found.before is not None and found.before.sha256 == entry.sha256:
        if not image_agrees(found.before, found.image):
            raise _not("unfinished", "its image is not the one that the damaged ledger says it was made from")
    elif file.modified_ns > entry.modified_ns:
        raise _not("unfinished", "its image is newer than the label, and may be another one than it was made from")
    return replace(entry, image_bytes=file.size, image_modified_ns=file.modified_ns, image_sha256=digest)
