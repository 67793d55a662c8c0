"""Data sets on disk: which images there are, which label belongs to which, and what a label folder's values mean.

It lists files and reads none of them but a run's ledger.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from storage.errors import LayoutError, MissingFileError
from storage.image_reader import IMAGE_SUFFIXES
from storage.ledger import Ledger
from storage.object_walk import is_folder, walk
from storage.paths import is_remote
from storage.run_form import ids_of_run, refuse_other_classes
from storage.schema import ClassSchema, Ids
from storage.shard import Shard
from storage.walk import FoundFile
from storage.workspace import Workspace

Layout = Literal["folder", "cityscapes"]
"""`folder`: mirrored trees, same stem. `cityscapes`: leftImg8bit / gtFine / gtCoarse with their suffixes."""

_CITYSCAPES_IMAGE = "_leftImg8bit"
_CITYSCAPES_LABELS: dict[str, Ids] = {"_labelIds": "source", "_labelTrainIds": "class"}
_CITYSCAPES_KINDS = ("_gtFine", "_gtCoarse")
_NO_LINKS = "and follows no links to folders"


@dataclass(frozen=True, slots=True)
class Item:
    """One image to label."""

    key: str
    """Relative posix path without suffix: where its label goes."""
    image: Path
    slot: int | None = None
    """Where its confidence is kept, in a run that keeps it."""


@dataclass(frozen=True, slots=True)
class Listing:
    """The images of a data set."""

    items: tuple[Item, ...]
    """Sorted by key; keys are unique."""
    problems: tuple[tuple[str, str], ...]
    """Images that cannot have a key of their own: (relative path, what is wrong)."""

    @property
    def keys(self) -> frozenset[str]:
        """What each image goes by in a ledger: its key, or its relative path where it has none."""
        return frozenset(item.key for item in self.items) | frozenset(name for name, _ in self.problems)

    def of_shard(self, shard: Shard | None) -> "Listing":
        """The images of one shard; all of them where there are no shards.

        An image without a key of its own goes where the label would that it and others ask for: what was labelled while
        it had its key for itself stays in its shard.
        """
        if shard is None:
            return self
        return Listing(
            tuple(item for item in self.items if shard.holds(item.key)),
            tuple(one for one in self.problems if shard.holds(PurePosixPath(one[0]).with_suffix("").as_posix())),
        )


@dataclass(frozen=True, slots=True)
class LabelFile:
    """One label file and what its values are."""

    path: Path
    ids: Ids


def find_images(
    root: Path, layout: Layout = "folder", exclude: Sequence[Path] = ()
) -> tuple[Path, Iterator[tuple[str, FoundFile]]]:
    """Find the images below a folder, recursively, one after the other and in no order.

    Args:
        root: the image folder; with `cityscapes` also the data set's own root, which holds leftImg8bit.
        layout: how the data set lies on disk.
        exclude: folders to leave out, such as an output folder that lies inside.

    Returns:
        The folder that they are found below, and of each image the key and the file; the key is empty where the file's
        name is not UTF-8.

    Raises:
        MissingFileError: there is no such folder.
    """
    if not is_remote(root) and not root.is_dir():
        raise MissingFileError(f"no image folder {root}")
    suffix = _CITYSCAPES_IMAGE if layout == "cityscapes" else ""
    if layout == "cityscapes" and is_folder(root / "leftImg8bit"):
        root = root / "leftImg8bit"

    def find() -> Iterator[tuple[str, FoundFile]]:
        for file in walk(root, exclude):
            stem, dot, ending = file.relative.rpartition(".")
            if f"{dot}{ending}".lower() in IMAGE_SUFFIXES and stem.endswith(suffix) and not stem.endswith("/"):
                yield stem if is_utf8(file.relative) else "", file

    return root, find()


def no_images(root: Path, layout: Layout) -> LayoutError:
    """The error that there is nothing to label."""
    wanted = f"*{_CITYSCAPES_IMAGE}.png" if layout == "cityscapes" else ", ".join(sorted(IMAGE_SUFFIXES))
    return LayoutError(f"{root}: no images found below it (layout {layout} looks for {wanted} {_NO_LINKS})")


def bad_name(root: Path, relative: str) -> tuple[str, str]:
    """What an image goes by whose name is not UTF-8, and what is wrong."""
    return repr(relative), f"{relative!r} in {root}: its name is not UTF-8; rename it"


def shared_key(root: Path, key: str, relatives: Sequence[str]) -> list[tuple[str, str]]:
    """What images go by that would share a key, and what is wrong with each."""
    names = " and ".join(PurePosixPath(relative).name for relative in relatives)
    return [
        (relative, f"{root / relative}: {names} would share the label {key}.png; rename all but one")
        for relative in relatives
    ]


def list_images(root: Path, layout: Layout = "folder", exclude: Sequence[Path] = ()) -> Listing:
    """List the images below a folder, recursively, in memory.

    Args:
        root: as in `find_images`, and so on.
        layout: how the data set lies on disk.
        exclude: folders to leave out.

    Raises:
        MissingFileError: there is no such folder.
        LayoutError: it holds no image.
    """
    folder, found = find_images(root, layout, exclude)
    by_key: dict[str, list[str]] = defaultdict(list)
    problems = []
    for key, file in found:
        if key:
            by_key[key].append(file.relative)
        else:
            problems.append(bad_name(folder, file.relative))
    if not by_key and not problems:
        raise no_images(folder, layout)
    items = []
    for key, relatives in sorted(by_key.items()):
        if len(relatives) == 1:
            items.append(Item(key, folder / relatives[0]))
        else:
            problems += shared_key(folder, key, sorted(relatives))
    return Listing(tuple(items), tuple(problems))


def is_utf8(text: str) -> bool:
    """Whether a path can be written in a ledger."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def pairing_key(key: str) -> str:
    """The part of a key that an image and its labels share: Cityscapes' suffixes removed."""
    for suffix in (_CITYSCAPES_IMAGE, *(k + s for k in _CITYSCAPES_KINDS for s in _CITYSCAPES_LABELS)):
        if key.endswith(suffix):
            return key.removesuffix(suffix)
    return key


def list_labels(
    root: Path, layout: Layout = "folder", ids: Ids | None = None, schema: ClassSchema | None = None
) -> dict[str, LabelFile]:
    """List the label files of a folder or of a RUN, by pairing key.

    Of a RUN only the labels whose item is done are listed: an item that failed may have left an older label behind.

    Args:
        root: a label folder, or what `label --out` made, or the labels in it; with `cityscapes` also the data set's
            own root.
        layout: how the label folder lies on disk. A RUN mirrors its images and needs no layout.
        ids: what the values are; None means class indices, or what a Cityscapes file's name says. A RUN says itself
            what its own are.
        schema: the classes that they are to be read as; a RUN must be of these. None: not known here.

    Raises:
        MissingFileError: there is no such folder.
        SchemaError: the RUN has other classes.
        LayoutError: it holds no labels, two labels for one image, or both gtFine and gtCoarse.
        WorkspaceError: the RUN's ledger cannot be read.
    """
    if not root.is_dir():
        raise MissingFileError(f"no label folder {root}")
    run = Workspace.holding(root)
    done: frozenset[str] | None = None
    if run is not None:
        root, layout = run.labels, "folder"
        with Ledger(run.ledger, read_only=True) as ledger:
            done = ledger.done_keys()
            ids = ids_of_run(ledger.settings)
            if schema is not None:
                refuse_other_classes(run.root, ledger.settings, schema)
    suffixes: dict[str, Ids] = {"": ids or "class"}
    if layout == "cityscapes":
        root = _cityscapes_label_root(root)
        wanted = {s: i for s, i in _CITYSCAPES_LABELS.items() if ids in (None, i)}
        suffixes = {kind + s: i for s, i in wanted.items() for kind in _CITYSCAPES_KINDS}
    found: dict[str, LabelFile] = {}
    for path in sorted(root / file.relative for file in walk(root)):
        key = path.relative_to(root).with_suffix("").as_posix()
        if path.suffix.lower() != ".png" or (done is not None and key not in done):
            continue
        for suffix, values in suffixes.items():
            if path.stem.endswith(suffix):
                _add_label(found, pairing_key(key), LabelFile(path, values), layout)
    if not found:
        wanted_names = " or ".join(f"*{s}.png" for s in suffixes)
        raise LayoutError(f"{root}: no labels found below it (layout {layout} looks for {wanted_names} {_NO_LINKS})")
    return found


def _add_label(found: dict[str, LabelFile], key: str, label: LabelFile, layout: Layout) -> None:
    other = found.get(key)
    if other is not None and other.ids == label.ids:
        endings = layout == "folder" and other.path.stem != label.path.stem  # only Cityscapes' own set them apart
        hint = ", or say --layout cityscapes, which knows these endings" if endings else ""
        raise LayoutError(f"{other.path} and {label.path} are both labels of {key}; keep one{hint}")
    if other is None or label.ids == "source":  # of the two, the data set's own ids are the original
        found[key] = label


def _cityscapes_label_root(root: Path) -> Path:
    kinds = [root / k for k in ("gtFine", "gtCoarse") if (root / k).is_dir()]
    if len(kinds) == 2:
        raise LayoutError(f"{root}: holds both gtFine and gtCoarse; name the one that is meant")
    return kinds[0] if kinds else root
