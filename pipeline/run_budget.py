"""What a run takes against what it might have taken, and what it will take once it is finished.

It reads the ledger, the settings and the names of the images, and opens no image; the bytes come from `storage.budget`.
"""

import os
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from storage.budget import LEDGER_BYTES, FolderBytes
from storage.errors import AutocoarseError, SettingsError
from storage.image_reader import read_image_size
from storage.layouts import Layout, list_images
from storage.ledger import Ledger
from storage.ledger_copy import readable_ledger
from storage.object_io import read_file
from storage.paths import as_path, is_remote
from storage.run_form import RunForm
from storage.shard import Shard
from storage.soft_formats import SOFT_FORMATS
from storage.workspace import Workspace


@dataclass(frozen=True, slots=True)
class SoftBytes:
    """What the same labels would take as probabilities, without compression."""

    pixels: int
    classes: int
    bytes: dict[str, int]
    """By format, of all classes; exact."""


@dataclass(frozen=True, slots=True)
class Projection:
    """What a run will take with the items that are left, at the mean of those that are done."""

    done: int
    left: int
    bytes_each: float
    """Of label, what is kept beside it, and entry."""
    total_bytes: int


@dataclass(frozen=True, slots=True)
class LedgerCounts:
    """What a ledger says of the done items together."""

    keys: frozenset[str]
    pixels: int
    label_bytes: int
    classes: int | None
    """None where the ledger does not say."""


def count_ledger(root: Path) -> LedgerCounts | str:
    """Add up a run's ledger, or say why it cannot be; a run may be at work meanwhile.

    Args:
        root: folder of the run, or of labels, which has no ledger.
    """
    workspace = Workspace(root)
    keys, pixels, label_bytes = set(), 0, 0
    try:
        workspace.refuse_lost_ledger()
        if not workspace.is_run():
            return "there is no ledger"
        with Ledger(readable_ledger(workspace), read_only=True) as ledger:
            for entry in ledger:
                if entry.status == "done":
                    keys.add(entry.key)
                    pixels += entry.height * entry.width
                    label_bytes += entry.bytes
            settings = ledger.settings
    except AutocoarseError as error:
        return str(error)
    try:
        classes = len(RunForm.of(settings).names)
    except AutocoarseError:
        classes = None
    return LedgerCounts(frozenset(keys), pixels, label_bytes, classes)


def soft_alternatives(root: Path, ledger: LedgerCounts | str, classes: int | None) -> SoftBytes | str:
    """What the labels would take as soft ones, or why it is not known.

    Args:
        root: folder of the run or of labels.
        ledger: what `count_ledger` gave.
        classes: number of classes where the ledger does not say.
    """
    if isinstance(ledger, LedgerCounts):
        count, pixels = ledger.classes or classes, ledger.pixels
    else:
        count, pixels = classes, None
    if count is None:
        return "the number of classes is not known; give --classes"
    try:
        pixels = sum(_label_pixels(root)) if pixels is None else pixels
    except AutocoarseError as error:
        return f"its pixels cannot be counted: {error}"
    whole = [form for form in SOFT_FORMATS if form.top is None]
    return SoftBytes(pixels, count, {form.name: form.raw_bytes(pixels, count) for form in whole})


def _label_pixels(root: Path) -> Iterator[int]:
    workspace = Workspace(root)
    for folder, _, files in os.walk(workspace.labels if workspace.is_run() else root):
        for path in (Path(folder, name) for name in files if name.lower().endswith(".png")):
            height, width = read_image_size(path)
            yield height * width


def project(root: Path, found: FolderBytes, ledger: LedgerCounts | str) -> Projection | str:
    """What a run will take once every image of its set, or of its shard, is labelled, or why that cannot be said.

    Args:
        root: folder of the run.
        found: what it takes now.
        ledger: what `count_ledger` gave.
    """
    if isinstance(ledger, str):
        return ledger
    if not ledger.keys:
        return "no label is done yet"
    workspace = Workspace(root)
    try:
        images, layout, shard = _images_of(workspace.settings)
        keys = list_images(images, layout, exclude=[root, workspace.labels]).of_shard(shard).keys
    except (AutocoarseError, OSError) as error:
        return str(error)
    left = len(keys - ledger.keys)
    if not left:
        return "every image is labelled"
    rows = max(0, found.ledger_bytes - LEDGER_BYTES)  # an empty ledger takes room as well, but only once
    each = (ledger.label_bytes + found.store_bytes + rows) / len(ledger.keys)
    return Projection(len(ledger.keys), left, each, round(found.total_bytes + left * each))


def _images_of(settings: Path) -> tuple[Path, Layout, Shard | None]:
    try:
        content = tomllib.loads(read_file(settings).decode())
        if "label" not in content:
            raise SettingsError(f"a run of `{next(iter(content), '?')}` has no images of its own to count")
        table = content["label"]
        images, layout = as_path(table["images"]), table.get("layout", "folder")
        shard = Shard.parse(table["shard"]) if "shard" in table else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SettingsError(f"{settings} does not say which images the run is to label: {error!r}") from error
    if not is_remote(images) and not images.is_absolute() and not images.is_dir():
        raise SettingsError(f"the run's images {images} are not found from here; run this where `label` was run")
    return images, "cityscapes" if layout == "cityscapes" else "folder", shard
