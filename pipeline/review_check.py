"""Checking what an annotation tool gave back against what was handed out: each image becomes a label, or a problem.

What the files say is read by the formats; what becomes of a good label, `review_import` decides.
"""

import difflib
import hashlib
from collections import defaultdict
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path, PurePosixPath

import numpy as np

from pipeline.export_manifest import EXPORTED_LABELS, Manifest
from pipeline.review_formats import FORMATS
from pipeline.review_regions import Annotated, FormatName, ReviewImage, compose
from pipeline.reviewed_samples import KIND
from storage.errors import LabelError, MissingFileError
from storage.label_map import LabelMap
from storage.label_png import encode_label_png, read_label_png
from storage.ledger import Entry
from storage.object_io import file_digest
from storage.schema import ClassSchema


@dataclass(frozen=True, slots=True)
class Reviewed:
    """A label that came back, ready to be written."""

    content: bytes
    """Of its PNG."""
    entry: Entry
    """Without the time of the file."""
    pixels: str
    """Hash of its pixels."""
    of: str
    """Hash of the label file that was handed out."""
    changed: int
    """Pixels that are not as they were handed out."""
    claimed_again: int
    """Pixels that several classes claimed."""

    def note(self, export: str) -> dict[str, object]:
        """What the ledger is to remember beside the entry; `export` is the export's digest."""
        return {
            "export": export,
            "pixels": self.pixels,
            "of": self.of,
            "changed": self.changed,
            "claimed_again": self.claimed_again,
        }


class ReviewChecker:
    """Turns what a tool says of images into labels.

    Args:
        export: folder of the export.
        manifest: of the export.
        schema: its classes.
        form: the format that came back.
        digest: of the settings of the reviewed labels' run.
    """

    def __init__(self, export: Path, manifest: Manifest, schema: ClassSchema, form: FormatName, digest: str) -> None:
        self._export, self._manifest, self._schema, self._form, self._digest = export, manifest, schema, form, digest
        self._by_name: dict[str, ReviewImage] = {}
        by_end: dict[str, list[ReviewImage]] = defaultdict(list)
        for image in manifest.images:
            for name in (image.file, image.key):
                self._by_name[name] = image
                by_end[PurePosixPath(name).name].append(image)
        # tools that flatten folders leave the last part of a name; it will do where no other image has it
        self._by_end = {end: images[0] for end, images in by_end.items() if len({i.key for i in images}) == 1}
        self._seen: set[str] = set()

    def find(self, name: str) -> ReviewImage:
        """The image that a tool means.

        Args:
            name: of the image's file, or its key; folders before it do no harm.

        Raises:
            LabelError: none was handed out that is named so, or it comes for the second time.
        """
        parts = PurePosixPath(name.replace("\\", "/")).parts
        ends = ("/".join(parts[start:]) for start in range(len(parts)))
        image = next((self._by_name[end] for end in ends if end in self._by_name), None)
        image = image or (self._by_end.get(parts[-1]) if parts else None)
        if image is None:
            near = difflib.get_close_matches(name, self._by_name, n=2)
            hint = f"did it have the name {' or '.join(near)}?" if near else "was it handed out by another export?"
            raise LabelError(f"{name!r} is no image of {self._export}: {hint} Images must keep their names in the tool")
        if image.key in self._seen:
            raise LabelError(f"{name!r} stands in the files twice; keep one of them")
        self._seen.add(image.key)
        return image

    def check(self, image: ReviewImage, found: Annotated) -> Reviewed:
        """Make an image's label of its regions, and compare it with the one that was handed out.

        Raises:
            LabelError: the regions make no label of this image; the message does not name it.
        """
        if found.problem:
            raise LabelError(found.problem)
        if found.size is not None and found.size != image.size:
            raise LabelError(
                f"is {found.size[1]}x{found.size[0]} in the file, but was handed out as {image.width}x{image.height}; "
                f"do not scale or crop images for the tool"
            )
        label, claimed_again = compose(found.regions, image.size, self._schema, drawn=FORMATS[self._form].is_drawn)
        before = self._exported(image)
        if not found.regions and before.ignored < before.values.size:
            raise LabelError(
                "has no region, though it was handed out with some: were the annotations imported into the tool? An "
                "image without any class teaches nothing, so leave it out"
            )
        changed = int(np.count_nonzero(label.values != before.values))
        return self._reviewed(image, label, changed, claimed_again)

    def _exported(self, image: ReviewImage) -> LabelMap:
        path = self._export / EXPORTED_LABELS / f"{image.key}.png"
        if not path.is_file():
            raise MissingFileError(f"no {path}, which the export wrote; put it back, or export again")
        if file_digest(path) != image.label_sha256:
            raise LabelError(f"{path} is not the label that was handed out; put it back, or export again")
        return read_label_png(path, self._schema, self._manifest.ids, image.size)

    def _reviewed(self, image: ReviewImage, label: LabelMap, changed: int, claimed_again: int) -> Reviewed:
        provenance: dict[str, str | float] = {
            "settings": self._digest,
            "kind": KIND,
            "format": self._form,
            "reviewed_sha256": image.label_sha256,
            "changed": changed,
            "classes": self._schema.digest,
            "version": version("autocoarse"),
        }
        content = encode_label_png(label, provenance)
        entry = Entry(
            key=image.key,
            status="done",
            settings_digest=self._digest,
            image_bytes=image.image_bytes,
            image_modified_ns=image.image_modified_ns,
            image_sha256=image.image_sha256,
            height=label.height,
            width=label.width,
            ignored=label.ignored,
            bytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            counts=tuple(label.counts[: label.num_classes].tolist()),
        )
        pixels = hashlib.sha256(label.values.tobytes()).hexdigest()
        return Reviewed(content, entry, pixels, image.label_sha256, changed, claimed_again)
