"""The file of an audit: how far automatic labels agree with the human coarse labels of the same images.

What is in it is measured in `audit`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from pipeline.quality import ClassQuality, Quality
from storage.atomic_file import refuse_without_folder
from storage.errors import MissingFileError, SettingsError
from storage.workspace import write_atomically

VERSION: Literal[1] = 1
"""Of the file's form; a file of another version is refused."""

MAX_BYTES = 2**30
"""A larger file is refused before it is read; one of 20,000 images has some megabytes."""

BIAS = (
    "coarse labels cover the interiors of large objects: agreement is optimistic for borders and thin classes",
    "a class that humans rarely drew has little evidence, whatever the figures are",
    "where the human is wrong, or drew roughly, the teacher is blamed",
)
"""What agreement with coarse labels does not say; every audit states it."""


_Share = Annotated[float, Field(ge=0, le=1)]
_Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True, slots=True)
class Mistake:
    """What an image's labels most often disagree on."""

    coarse: str
    """Class that the human drew."""
    auto: str
    """Class that was given instead."""
    pixels: _Count


@dataclass(frozen=True, slots=True)
class ImageAudit:
    """The agreement of one image's labels."""

    key: str
    """Relative posix path without suffix, that labels of both kinds share."""
    pixels: _Count
    """All of the image."""
    drawn: _Count
    """Of these, the ones that the human gave a class."""
    judged: _Count
    """Of the drawn ones, those that were given a class: here the two can disagree."""
    agreeing: _Count
    """Of the judged ones, those of the same class."""
    score: _Share
    """How much the image deserves a review: higher is worse (see `pipeline.audit_ranking`)."""
    mistake: Mistake | None
    """None where all judged pixels agree."""


@dataclass(frozen=True, slots=True)
class FolderAudit:
    """The agreement in one folder: a city, a sequence."""

    name: str
    """Relative posix path; `.` for the images that lie in no folder."""
    images: _Count
    drawn: _Count
    judged: _Count
    agreeing: _Count
    precision: _Share | None
    """Agreeing pixels of the judged ones; None where none is judged."""
    precision_low: _Share | None
    precision_high: _Share | None
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
    floor_images: _Count
    floor_pixels: _Count
    """A class that was given to judged pixels of fewer images, or drawn in fewer, or given to fewer judged pixels, has
    too little evidence: `enough` is false."""
    classes: tuple[ClassQuality, ...]
    """In the order of the class indices; the "truth" of these figures is what humans drew."""
    drawn_images: tuple[_Count, ...]
    """By class: images in which humans drew it."""
    confusion: tuple[tuple[_Count, ...], ...]
    """Pixels: rows are the human's class, columns the given one, the last column no class."""
    precision: _Share | None
    """Of all classes together: agreeing pixels of the judged ones."""
    precision_low: _Share | None
    precision_high: _Share | None
    coverage: _Share | None
    """Judged pixels of the drawn ones."""
    images_without_coarse: _Count
    """Labels that no human drew anything for; they are not judged."""
    images_without_auto: _Count
    """Coarse labels that have no automatic one; they are not judged."""
    unknown: _Count
    """Pixels of the coarse labels whose source id the classes do not know; they are not judged."""
    folders: tuple[FolderAudit, ...]
    """By name."""
    images: tuple[ImageAudit, ...]
    """The worst first."""

    def quality(self) -> Quality:
        """The figures by class, in the form of all that is known of labels' quality."""
        return Quality("audit", self.labels, self.classes, self.precision, self.coverage)


_FORM = TypeAdapter(Audit)


def to_json(audit: Audit) -> bytes:
    """An audit as the content of its file; the same one gives the same bytes."""
    return _FORM.dump_json(audit, indent=1) + b"\n"


def write_audit(path: Path, audit: Audit) -> None:
    """Write an audit, whole or not at all.

    Raises:
        WorkspaceError: it cannot be written.
    """
    write_atomically(path, to_json(audit))


def refuse_others(path: Path) -> None:
    """Never write over a file that is no audit; an older audit is replaced.

    Raises:
        SettingsError: something else is there, or the file has no folder.
    """
    refuse_without_folder(path)
    if path.exists():
        try:
            read_audit(path)
        except SettingsError as error:
            raise SettingsError(f"{path} is there and no audit, so it is not replaced: choose another --out") from error


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
    if reason := _contradiction(audit):
        raise SettingsError(f"{path} is no audit: {reason}; make it again with `autocoarse audit RUN --coarse DIR`")
    return audit


def _contradiction(audit: Audit) -> str:
    """What in an audit cannot be; empty where nothing is found."""
    names = [one.name for one in audit.classes]
    if not names or len(set(names)) < len(names):
        return "it has no classes, or one twice"
    lengths = {len(row) for row in audit.confusion}
    if len(audit.confusion) != len(names) or lengths - {len(names) + 1} or len(audit.drawn_images) != len(names):
        return f"not all that is given by class has the size of {len(names)} classes"
    for one in audit.classes:
        if len({one.precision is None, one.precision_low is None, one.precision_high is None}) > 1:
            return f"the precision of {one.name!r} has no interval"
        for share in (one.precision, one.precision_low, one.precision_high, one.coverage):
            if share is not None and not 0 <= share <= 1:
                return f"{share} of {one.name!r} is no share of pixels"
    if any(not one.agreeing <= one.judged <= one.drawn <= one.pixels for one in audit.images):
        return "an image has more agreeing, judged or drawn pixels than there are"
    return ""
