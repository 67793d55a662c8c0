"""The formats that labels are handed to annotation tools in, and come back in: what each is called, writes and reads.

How a format is written and read is in its own module.
"""

import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from pipeline.export_manifest import MANIFEST
from pipeline.review_coco import CocoWriter, read_coco
from pipeline.review_cvat import CvatWriter, read_cvat
from pipeline.review_datumaro import DatumaroWriter, read_datumaro
from pipeline.review_label_studio import LabelStudioWriter, read_label_studio
from pipeline.review_regions import Annotated, AnnotationWriter, FormatName, ReviewImage
from storage.errors import LabelError, MissingFileError
from storage.schema import ClassSchema

MAX_BYTES = 1 << 29
"""Of a tool's files together, unpacked; larger ones are refused before they are read."""

_DAMAGED = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError),
    *(OSError, ValueError, RuntimeError),  # of bzip2; of places and names that cannot be; of passwords and methods
)
"""What a zip that is damaged, or packed as nobody packs one, makes the library raise."""


@dataclass(frozen=True, slots=True)
class ReviewFormat:
    """One format."""

    suffix: str
    """Of its files of annotations."""
    usual: str
    """What these are called, as a pattern; where there are such files, others in a folder or a zip are passed over."""
    images: str
    """Folder of the images, where the tool looks for them."""
    is_drawn: bool
    """Whether the tool shows which of two regions is on top."""
    by_name: bool
    """Whether images are known by their place in the order of their names, as CVAT's frames are."""
    read: Callable[[bytes, str], Iterator[Annotated]]
    """Content and name of a file -> what it says of its images."""


FORMATS: dict[FormatName, ReviewFormat] = {
    "cvat": ReviewFormat(".xml", "annotations.xml", "images", is_drawn=True, by_name=True, read=read_cvat),
    "coco": ReviewFormat(".json", "instances_*.json", "images", is_drawn=False, by_name=False, read=read_coco),
    "label-studio": ReviewFormat(".json", "*.json", "images", is_drawn=True, by_name=False, read=read_label_studio),
    "datumaro": ReviewFormat(".json", "*.json", "images/default", is_drawn=True, by_name=False, read=read_datumaro),
}


def open_writer(
    name: FormatName, root: Path, schema: ClassSchema, images: Sequence[ReviewImage], url_prefix: str
) -> AnnotationWriter:
    """The writer of a format.

    Args:
        name: of the format.
        root: folder to write into.
        schema: the classes.
        images: all that will be written, in their order.
        url_prefix: of the images, for Label Studio.

    Raises:
        SettingsError: a name cannot be written in this format.
    """
    if name == "cvat":
        return CvatWriter(root, schema, images)
    if name == "coco":
        return CocoWriter(root, schema, images)
    if name == "datumaro":
        return DatumaroWriter(root, schema, images)
    return LabelStudioWriter(root, schema, images, url_prefix)


def read_annotations(path: Path, name: FormatName) -> Iterator[Annotated]:
    """What a tool gave back says of its images, one after the other; it is not to be trusted.

    Args:
        path: a file of the format, a folder or a zip that holds such files.
        name: of the format.

    Raises:
        MissingFileError: there is no such file.
        LabelError: nothing of that format is in it, or it is too large or damaged.
    """
    form = FORMATS[name]
    left = MAX_BYTES
    for where, content in _contents(path, form):
        left -= len(content)
        if left < 0:
            raise _too_large(where)
        yield from form.read(content, where)
    if left == MAX_BYTES:
        raise LabelError(f"{path} holds no *{form.suffix}, as {name} has its annotations in; say the --format it has")


def _too_large(where: str) -> LabelError:
    return LabelError(f"{where} has more than {MAX_BYTES >> 20} MiB; export fewer images from the tool at once")


def _contents(path: Path, form: ReviewFormat) -> Iterator[tuple[str, bytes]]:
    """The names of the files with annotations, and their contents, of at most `MAX_BYTES` each."""
    if path.is_dir():
        names = sorted(file.relative_to(path).as_posix() for file in path.rglob(f"*{form.suffix}"))
        for name in _wanted(names, form):
            yield str(path / name), _read(path / name)
    elif not path.is_file():
        raise MissingFileError(f"no file {path}; export the reviewed labels from the tool, and name that file")
    elif zipfile.is_zipfile(path):
        yield from _members(path, form)
    else:
        yield str(path), _read(path)


def _wanted(names: Sequence[str], form: ReviewFormat) -> list[str]:
    """The files, of those in a folder or a zip, that have the annotations."""
    found = []
    for name in names:
        parts = PurePosixPath(name).parts
        hidden = any(part.startswith((".", "__MACOSX")) for part in parts)
        if name.lower().endswith(form.suffix) and not hidden and parts[-1] != MANIFEST:
            found.append(name)
    return [name for name in found if fnmatch(PurePosixPath(name).name, form.usual)] or found


def _read(path: Path) -> bytes:
    if path.stat().st_size > MAX_BYTES:
        raise _too_large(str(path))
    return path.read_bytes()


def _members(path: Path, form: ReviewFormat) -> Iterator[tuple[str, bytes]]:
    """Members are read, and never written anywhere; no more of one is unpacked than may be."""
    try:
        with zipfile.ZipFile(path) as archive:
            wanted = _wanted(archive.namelist(), form)
    except _DAMAGED as error:
        raise _no_zip(path, error) from error
    for name in wanted:
        where = f"{name} in {path}"
        try:
            with zipfile.ZipFile(path) as archive, archive.open(name) as file:
                content = file.read(MAX_BYTES + 1)
        except _DAMAGED as error:
            raise _no_zip(path, error) from error
        if len(content) > MAX_BYTES:
            raise _too_large(where)
        yield where, content


def _no_zip(path: Path, error: Exception) -> LabelError:
    return LabelError(f"{path} cannot be read as a zip: {error}; export it from the tool again")
