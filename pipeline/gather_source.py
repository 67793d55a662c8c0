"""The runs that are gathered: opened to be read, and found to be parts of one run.

Which of their items are taken is in `gather_plan`.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pipeline.settings import LabelSettings, read_label_settings, settings_difference
from storage.errors import ForeignSettingsError, MissingFileError, SettingsError, WorkspaceError
from storage.integrity import check_ledger
from storage.ledger import Ledger
from storage.schema import ClassSchema, load_schema
from storage.shard import Shard
from storage.soft_store import SoftStore
from storage.workspace import Workspace


@dataclass(frozen=True, slots=True)
class GatherSource:
    """A run whose items are gathered; its ledger is read by one thread, all else may be shared."""

    workspace: Workspace
    ledger: Ledger
    settings: LabelSettings
    decisive: dict[str, object]
    """The settings that decide its labels' values."""
    schema: ClassSchema
    shard: Shard | None
    """That it is of; None where it is of all images."""
    store: SoftStore | None
    """Where its confidence is kept; None where none is to be."""
    slots: dict[str, int]
    """By key."""

    @classmethod
    def open(cls, run: Path, stack: ExitStack) -> Self:
        """Open a run of `label`.

        Args:
            run: its folder.
            stack: closes it.

        Raises:
            MissingFileError: there is none.
            WorkspaceError: it is damaged, or another command's.
        """
        workspace = Workspace.holding(run)
        if workspace is None:
            raise MissingFileError(f"{run} is no RUN: it has no labels and ledger.sqlite; give what `label` made")
        check_ledger(workspace.ledger)
        ledger = stack.enter_context(Ledger(workspace.ledger, read_only=True))
        settings = read_label_settings(workspace.settings)
        store = None if settings.keep == "none" else SoftStore.find(workspace.soft)
        if settings.keep != "none" and store is None:
            raise WorkspaceError(f"{workspace.soft}: the kept confidence is gone; run its `label` again")
        slots = {} if store is None else ledger.slots()
        schema = load_schema(str(workspace.classes))
        return cls(workspace, ledger, settings, ledger.settings or {}, schema, ledger.shard, store, slots)

    def terms(self, *, with_images: bool) -> dict[str, object]:
        """What it must have in common with the others, as plain values.

        Args:
            with_images: whether the folder of its images is among them.
        """
        terms: dict[str, object] = {**self.decisive, "classes.json": self.schema.digest, "layout": self.settings.layout}
        terms["keep"] = "none" if self.store is None else f"{self.store.form.keep} in {self.store.form.steps} steps"
        return {**terms, "images": str(self.settings.images.resolve())} if with_images else terms


def open_sources(runs: Sequence[Path], out: Path, stack: ExitStack, *, same_images: bool) -> tuple[GatherSource, ...]:
    """Open runs that are to become one.

    Args:
        runs: their folders.
        out: folder of what they become.
        stack: closes them.
        same_images: whether all must name the same folder of images.

    Raises:
        SettingsError: a run is given twice, or it and `out` lie in each other.
        ForeignSettingsError: they were not made with the same settings; the message shows the difference.
        MissingFileError, WorkspaceError: as `GatherSource.open`.
    """
    sources: list[GatherSource] = []
    roots: set[Path] = set()
    for run in runs:
        source = GatherSource.open(run, stack)
        root, target = source.workspace.root.resolve(), out.resolve()
        if root in roots:
            raise SettingsError(f"{run} is given twice; give each RUN once")
        if target.is_relative_to(root) or root.is_relative_to(target):
            raise SettingsError(f"--out {out} and {source.workspace.root} lie in each other; choose another")
        roots.add(root)
        first = sources[0] if sources else source
        before, now = (one.terms(with_images=same_images) for one in (first, source))
        if before != now:
            hint = ""
            if before.get("images") != now.get("images"):
                hint = "; if these are copies of the same images, say with --images where they are now"
            if before.get("keep") != now.get("keep"):
                hint += "; run the `label` of the one again with the other's --keep"
            raise ForeignSettingsError(
                f"{first.workspace.root} and {source.workspace.root} were made with other settings:\n"
                f"{settings_difference(before, now)}\ngather runs of the same settings only{hint}"
            )
        sources.append(source)
    return tuple(sources)


def shard_count(sources: Sequence[GatherSource]) -> int | None:
    """The number of shards that all runs are shards of; None where they are not."""
    counts = {None if source.shard is None else source.shard.count for source in sources}
    return counts.pop() if len(counts) == 1 else None


def absent_shards(sources: Sequence[GatherSource]) -> tuple[Shard, ...]:
    """The shards that no run is of; none where the runs are not shards of one number of shards."""
    count = shard_count(sources) or 0
    given = {source.shard for source in sources}
    return tuple(shard for number in range(1, count + 1) if (shard := Shard(number, count)) not in given)
