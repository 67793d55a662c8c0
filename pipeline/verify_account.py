"""The account of a RUN's items: its entries against the images they were made from, each item exactly once.

It opens no label and no image; what is in them is looked at in `verify_item`.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pipeline.verify_problem import Problem
from storage.errors import LayoutError, MissingFileError, WorkspaceError
from storage.layouts import Listing, list_images
from storage.ledger import Ledger
from storage.paths import as_path
from storage.shard import Shard
from storage.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Source:
    """What a run was made from, as its settings.toml says."""

    command: str
    """That made the run; empty where the settings cannot be read."""
    folder: Path | None
    """Of the images."""
    listing: Listing | None
    """The images, of a shard its own; None where there are none to compare with."""
    absence: str
    """Why there are none; empty where there are."""
    problem: Problem | None = None
    """What is wrong with the settings."""
    can_make_again: bool = True
    """Whether what the labels are made from is there: the images, or the labels that were merged."""

    @classmethod
    def of(cls, workspace: Workspace) -> Self:
        """Read a run's settings and list its images."""
        path = workspace.settings
        try:
            command, table = next(iter(tomllib.loads(path.read_text("utf-8")).items()))
            if command != "label":
                # what people have corrected nobody makes again
                there = command == "merge" and all(Path(table[name]).is_dir() for name in ("coarse", "auto"))
                return cls(command, None, None, f"a run of `{command}` has no images of its own", None, there)
            folder, out, layout = as_path(table["images"]), as_path(table["out"]), table.get("layout", "folder")
            shard = Shard.parse(table["shard"]) if "shard" in table else None
        except FileNotFoundError:
            return cls._without(Problem("missing", path.name, "there are no settings of the run"))
        except (OSError, ValueError, LookupError, TypeError, AttributeError, StopIteration) as error:
            return cls._without(Problem("undecodable", path.name, f"no settings of a run: {error!r}"))
        try:
            listing = list_images(folder, layout, [out, workspace.root, workspace.labels])
        except (MissingFileError, LayoutError, WorkspaceError) as error:
            return cls(command, folder, None, str(error), None, can_make_again=False)
        return cls(command, folder, listing.of_shard(shard), "")

    @classmethod
    def _without(cls, problem: Problem) -> Self:
        return cls("", None, None, f"{problem.key}: {problem.reason}", problem, can_make_again=False)


@dataclass(frozen=True, slots=True)
class Account:
    """All items, each in one place."""

    done: tuple[str, ...]
    """Keys of the done items, whose files are to be checked."""
    images: Mapping[str, Path]
    """Image by key."""
    orphans: frozenset[str]
    """Of the done items, those whose image is gone."""
    others: tuple[Problem, ...]
    """The items that have no label, and why."""

    @classmethod
    def of(cls, ledger: Ledger, listing: Listing | None) -> Self:
        """Sort entries and images.

        Raises:
            BrokenLedgerError: an entry cannot be read.
        """
        images = {} if listing is None else {item.key: item.image for item in listing.items}
        refused = {} if listing is None else dict(listing.problems)
        others = [Problem("refused", name, why, damage=False) for name, why in refused.items()]
        # an image that is refused is there all the same, also for what was labelled when it had its key for itself
        there = images.keys() | refused.keys() | {Path(name).with_suffix("").as_posix() for name in refused}
        done: list[str] = []
        orphans: set[str] = set()
        unfinished = set(images)
        # only keys are kept: entries are small, and many; a run at work waits no longer than this for the ledger
        for entry in ledger:
            key, gone = entry.key, listing is not None and entry.key not in there
            unfinished.discard(key)
            if entry.status == "done":
                done.append(key)
                orphans |= {key} if gone else set()
            elif gone:
                others.append(orphan(key))
            elif key not in refused:
                others.append(Problem("failed", key, entry.reason, damage=False))
        others += [Problem("unfinished", key, "its image has no entry", damage=False) for key in sorted(unfinished)]
        return cls(tuple(done), images, frozenset(orphans), tuple(others))


def orphan(key: str) -> Problem:
    """The item's image is gone; its label is as good as before."""
    return Problem("orphan", key, "its image is gone", damage=False)
