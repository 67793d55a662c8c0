"""Handing a RUN's labels to an annotation tool: images, masks in the tool's format, and a manifest to check them by.

Which labels, `selection` decides; how they are written, the formats do. The folder appears whole or not at all.
"""

import shutil
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from pipeline.export_manifest import EXPORTED_LABELS, Manifest, write_manifest
from pipeline.review_formats import FORMATS, open_writer
from pipeline.review_regions import AnnotationWriter, FormatName, ReviewImage
from pipeline.selection import select
from pipeline.settings import Settings, settings_digest
from storage.adoption import Adopted
from storage.errors import ImageError, LabelError, LayoutError, MissingFileError, SettingsError
from storage.image_reader import is_turned_by_exif, read_image_size
from storage.label_png import read_label_png
from storage.layouts import Item, Layout, list_images, pairing_key
from storage.ledger import Entry, Ledger
from storage.new_folder import new_folder
from storage.object_io import file_digest, file_info
from storage.run_form import ids_of_run
from storage.schema import ClassSchema, Ids, load_schema
from storage.workspace import Workspace

ImageFiles = Literal["link", "copy", "none"]


class ExportSettings(Settings):
    """What `export` does."""

    run: Path
    """The RUN whose labels are handed out."""
    images: Path
    """Folder of the images that it labelled."""
    layout: Layout = "folder"
    to: FormatName
    """The format."""
    select: tuple[str, ...] = Field(min_length=1)
    """Which labels, as `pipeline.selection` reads them: all that any of these asks for."""
    image_files: ImageFiles = "link"
    """Whether images become second names of the same files (copies on another disk), copies, or are left out."""
    url_prefix: str | None = None
    """Label Studio: what stands before an image's path in its URL. None: a local file of `out`."""
    out: Path
    """Folder to make."""

    @model_validator(mode="after")
    def _prefix_is_label_studio_s(self) -> Self:
        if self.url_prefix is not None and self.to != "label-studio":
            raise ValueError(f"url_prefix is for label-studio; {self.to} finds images by their names, leave it out")
        return self


@dataclass(frozen=True, slots=True)
class ExportProgress:
    """How far an export is."""

    done: int
    total: int
    """Images."""
    turned: int = 0
    """Those so far that say by EXIF that they are to be turned, as their masks are not."""
    manifest: Manifest | None = None
    """With the last one."""


@dataclass(frozen=True, slots=True)
class _Job:
    """One label to hand out."""

    image: ReviewImage
    image_path: Path
    label_path: Path


def export(settings: ExportSettings) -> Iterator[ExportProgress]:
    """Write labels and images in the form that an annotation tool imports.

    Args:
        settings: what to do.

    Yields:
        Progress after each image; the last has the manifest, and comes when the folder is there.

    Raises:
        MissingFileError: the folder is no RUN, or what a selection needs is not there.
        SettingsError: a selection is none, or the output folder is not empty.
        LayoutError: nothing is selected, or a selected image is not among the images.
        ImageError: an image is not the one that was labelled.
        LabelError: a label is damaged.
        WorkspaceError: the folder cannot be written, or another process makes it.
    """
    run = Workspace.holding(settings.run)
    if run is None:
        raise MissingFileError(f"{settings.run} is no RUN; name the folder that `label --out` made")
    _refuse_what_is_there(settings.out)  # before files are hashed
    schema = load_schema(str(run.classes))
    jobs, ids, digest = _jobs(run, settings)
    images = tuple(job.image for job in jobs)
    manifest = Manifest("export", 1, settings.to, digest, settings.select, schema.to_dict(), ids, images)
    with new_folder(settings.out, _refuse_what_is_there) as stage:
        turned = yield from _write(stage, settings, schema, jobs, ids)
        write_manifest(stage, manifest)
    yield ExportProgress(len(jobs), len(jobs), turned, manifest)


def _refuse_what_is_there(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SettingsError(f"{out} is there and not empty; an export makes a folder of its own, choose another --out")


def _jobs(run: Workspace, settings: ExportSettings) -> tuple[list[_Job], Ids, str]:
    """What is to be handed out, in the selection's order; what the labels' values are; and the run's digest."""
    keys = select(run, settings.select)
    items = {pairing_key(item.key): item for item in list_images(settings.images, settings.layout).items}
    if missing := [key for key in keys if pairing_key(key) not in items]:
        named = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise LayoutError(
            f"{len(missing)} of {len(keys)} selected labels have no image in {settings.images}: {named}; name the "
            f"folder (and the --layout) that was labelled"
        )
    with Ledger(run.ledger, read_only=True) as ledger:
        jobs = []
        for key in keys:
            entry = ledger.get(key)
            assert entry is not None, "it was selected from this ledger"
            jobs.append(_job(run, entry, items[pairing_key(key)]))
        return jobs, ids_of_run(ledger.settings), settings_digest(ledger.settings or {})


def _job(run: Workspace, entry: Entry, item: Item) -> _Job:
    found = file_info(item.image)
    image = ReviewImage(
        key=pairing_key(entry.key),
        file=f"{item.key}{item.image.suffix}",
        height=entry.height,
        width=entry.width,
        image_bytes=found.size,
        image_modified_ns=found.modified_ns,
        image_sha256=entry.image_sha256 or file_digest(item.image),
        label_sha256=entry.sha256,
    )
    return _Job(image, item.image, run.label_path(entry.key))


def _write(
    stage: Path, settings: ExportSettings, schema: ClassSchema, jobs: list[_Job], ids: Ids
) -> Generator[ExportProgress, None, int]:
    form = FORMATS[settings.to]
    ordered = sorted(jobs, key=lambda job: job.image.file) if form.by_name else jobs
    # Label Studio serves local files below a root, which is the folder that the export lies in
    prefix = settings.url_prefix or f"/data/local-files/?d={settings.out.absolute().name}/{form.images}/"
    writer = open_writer(settings.to, stage, schema, [job.image for job in ordered], prefix)
    turned = 0
    try:
        for done, job in enumerate(ordered, 1):
            _hand_out(stage, settings, schema, job, ids, writer)
            turned += is_turned_by_exif(job.image_path)
            yield ExportProgress(done, len(ordered), turned)
    finally:
        writer.close()
    return turned


def _hand_out(
    stage: Path, settings: ExportSettings, schema: ClassSchema, job: _Job, ids: Ids, writer: AnnotationWriter
) -> None:
    image = job.image
    _place(job.label_path, stage / EXPORTED_LABELS / f"{image.key}.png", image.label_sha256, "link")
    label = read_label_png(job.label_path, schema, ids, image.size)
    try:
        _place(
            job.image_path, stage / FORMATS[settings.to].images / image.file, image.image_sha256, settings.image_files
        )
    except LabelError as error:
        raise ImageError(f"{error}; the image is not the one that was labelled: label it again") from error
    if (size := read_image_size(job.image_path)) != image.size:
        raise ImageError(
            f"{job.image_path} is {size[1]}x{size[0]}, its label {image.width}x{image.height}; label it again"
        )
    writer.add(image, label)


def _place(source: Path, target: Path, sha256: str, how: ImageFiles) -> None:
    """Link or copy a file, or only look at it; its hash must be the one recorded."""
    if how != "none":
        target.parent.mkdir(parents=True, exist_ok=True)
    if how == "link":
        Adopted(source, target, sha256).stage(target)
        return
    if how == "copy":
        shutil.copyfile(source, target)
    if file_digest(source if how == "none" else target) != sha256:
        raise LabelError(f"{source}: its hash is not the one recorded")
