"""The file of an audit: how far automatic labels agree with the human coarse labels of the same images.

What is in it is measured in `audit`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from pipeline.quality import ClassQuality, Quality
from storage.errors import MissingFileError, SettingsError
from storage.workspace import write_atomically

VERSION = 1
"""Of the file's form; a file of another version is refused."""

MAX_BYTES = 2**30
"""A larger file is refused before it is read; one of 20,000 images has some megabytes."""

BIAS = (
    "coarse labels cover the interiors of large objects: agreement is optimistic for borders and thin classes",
    "a class that humans rarely drew has little evidence, whatever the figures are",
    "where the human is wrong, or drew roughly, the teacher is blamed",
)
"""What agreement with coarse labels does not say; every audit states it."""


@dataclass(frozen=True, slots=True)
class Mistake:
    """What an image's labels most often disagree on."""

    coarse: str
    """Class that the human drew."""
    auto: str
    """Class that was given instead."""
    pixels: int


@dataclass(frozen=True, slots=True)
class ImageAudit:
    """The agreement of one image's labels."""

    key: str
    """Relative posix path without suffix, that labels of both kinds share."""
    pixels: int
    """All of the image."""
    drawn: int
    """Of these, the ones that the human gave a class."""
    judged: int
    """Of the drawn ones, those that were given a class: here the two can disagree."""
    agreeing: int
    """Of the judged ones, those of the same class."""
    score: float
    """How much the image deserves a review: higher is worse (see `pipeline.audit_ranking`)."""
    mistake: Mistake | None
    """None where all judged pixels agree."""


@dataclass(frozen=True, slots=True)
class FolderAudit:
    """The agreement in one folder: a city, a sequence."""

    name: str
    """Relative posix path; `.` for the images that lie in no folder."""
    images: int
    drawn: int
    judged: int
    agreeing: int
    precision: float | None
    """Agreeing pixels of the judged ones; None where none is judged."""
    precision_low: float | None
    precision_high: float | None
    """Ends of its interval (see `pipeline.intervals`); None where none is judged."""


@dataclass(frozen=True, slots=True)
class Audit:
    """The agreement of automatic labels with the human coarse labels of the same images."""

    kind: Literal["audit"]
    version: Literal[1]
    labels: str
    """What was audited: a RUN, or a label folder."""
    coarse: str
    """Folder of the human labels."""
    bias: tuple[str, ...]
    """What these figures do not say."""
    floor_images: int
    floor_pixels: int
    """A class with less evidence than both is not judged: `enough` is false."""
    classes: tuple[ClassQuality, ...]
    """In the order of the class indices; the "truth" of these figures is what humans drew."""
    confusion: tuple[tuple[int, ...], ...]
    """Pixels: rows are the human's class, columns the given one, the last column no class."""
    precision: float | None
    """Of all classes together: agreeing pixels of the judged ones."""
    precision_low: float | None
    precision_high: float | None
    coverage: float | None
    """Judged pixels of the drawn ones."""
    images_without_coarse: int
    """Labels that no human drew anything for; they are not judged."""
    images_without_auto: int
    """Coarse labels that have no automatic one; they are not judged."""
    unknown: int
    """Pixels of the coarse labels whose source id the classes do not know; they are not judged."""
    folders: tuple[FolderAudit, ...]
    """By name."""
    images: tuple[ImageAudit, ...]
    """The worst first."""

    def quality(self) -> Quality:
        """The figures by class, in the form of all that is known of labels' quality."""
        return Quality("audit", self.labels, self.classes, self.precision, self.coverage)


_FORM = TypeAdapter(Audit)


def write_audit(path: Path, audit: Audit) -> None:
    """Write an audit, whole or not at all.

    Raises:
        WorkspaceError: it cannot be written.
    """
    write_atomically(path, _FORM.dump_json(audit, indent=1) + b"\n")


def read_audit(path: Path) -> Audit:
    """Read what `write_audit` wrote.

    Raises:
        MissingFileError: there is no such file.
        SettingsError: it is no audit, of another version, or damaged.
    """
    if not path.is_file():
        raise MissingFileError(f"no audit {path}; `autocoarse audit RUN --coarse DIR` makes one")
    if (size := path.stat().st_size) > MAX_BYTES:
        raise SettingsError(f"{path} has {size} bytes, no audit has more than {MAX_BYTES}; make it again")
    try:
        audit = _FORM.validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        raise SettingsError(
            f"{path} is no audit of version {VERSION}: {'.'.join(map(str, first['loc'])) or 'file'}: {first['msg']}; "
            f"make it again with `autocoarse audit RUN --coarse DIR`"
        ) from error
    rows = {len(row) for row in audit.confusion}
    if len(audit.confusion) != len(audit.classes) or rows - {len(audit.classes) + 1}:
        raise SettingsError(f"{path} is no audit: its confusion does not have the {len(audit.classes)} classes' size")
    return audit
