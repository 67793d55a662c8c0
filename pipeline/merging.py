"""Merging two label sets into a RUN: human coarse labels and a teacher's, resumed by proof.

A few threads merge; this one alone writes the ledger. What a pixel becomes is decided in `merge`, what happens to one
image in `merge_pair`, and what is left to do in `merge_plan`.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field

from pipeline.merge import NO_BORDER, MergeCounts, Policy
from pipeline.merge_pair import LabelPair, Marks, Merged, PairMerger
from pipeline.merge_plan import (
    FILES_OF_PARENTS,
    MergePlan,
    compared_settings,
    list_pairs,
    make_merge_plan,
    parent_identity,
    refuse_overlap,
)
from pipeline.run_folder import claim, list_failures, opened_run, record_plan
from pipeline.settings import Settings, settings_digest
from pipeline.threads import work_and_record
from storage.errors import SettingsError
from storage.layouts import Layout
from storage.ledger import Entry
from storage.schema import ClassSchema, Ids, load_schema
from storage.workspace import Workspace

MERGE_RULE = 1
"""Version of the rule that merges two labels; raised when the same settings would give other pixels."""

_WORKERS = 4

Width = Annotated[int, Field(ge=0)]


class MergeSettings(Settings):
    """What `merge` does. Policy, union classes, border, classes and what the label files hold decide pixels."""

    coarse: Path
    """Folder of the human labels; also a RUN."""
    auto: Path
    """The teacher's labels: a RUN, or a label folder."""
    policy: Policy = "fill"
    union_classes: tuple[str, ...] = ()
    """Names of the classes whose human pixels always win."""
    border_ignore: tuple[Width, Width, Width, Width] = NO_BORDER
    """Pixels at the top, bottom, left and right where the auto label is not believed."""
    classes: str
    """A class schema's name or file."""
    layout: Layout = "folder"
    ids: Ids | None = None
    """What the values of both folders are; a RUN says itself what its own are."""
    out: Path
    """The run's folder."""


@dataclass(slots=True)
class MergeSummary:
    """Counts of a run; `total = merged + failed + skipped` once it has ended."""

    total: int
    """Images of the listing that are to have a merged label."""
    skipped: int
    """Done by an earlier run."""
    coarse_only: int
    """Of the total, those without an auto label."""
    auto_only: int
    """Of the total, those without a coarse label."""
    left_out: int
    """Not of the total: coarse labels without an auto label, where the policy is `auto`."""
    stale: int
    """Not of the total: labels of earlier runs whose parents are gone; they stay."""
    counts: MergeCounts
    """Over all merged labels of the listing, this run's and earlier ones."""
    merged: int = 0
    failed: int = 0
    bytes: int = 0
    """Of all merged labels of the listing, this run's and earlier ones."""

    def add(self, done: Merged) -> None:
        """Count a label's bytes and pixels."""
        self.bytes += done.entry.bytes
        self.counts += done.counts


class MergeRun:
    """A merging run: opened, planned, then iterated for its entries.

    Opening lists both label sets, takes the workspace's lock and refuses a workspace that holds labels of other
    settings. Use it as a context manager; leaving it records what was finished, also after an error or Ctrl-C.

    Raises:
        ForeignSettingsError: the workspace holds labels made with other settings, merged from another RUN, or
            labels that no ledger speaks of.
        SettingsError: a union class is no class, or the workspace and a parent lie in each other.
        WorkspaceError: the workspace cannot be written, or another process has it.
        LayoutError: a label set holds no labels, or two of one image.
        MissingFileError, SchemaError: a label set or the class schema is missing or malformed.
    """

    plan: MergePlan
    """What is done and what is to do."""

    def __init__(self, settings: MergeSettings) -> None:
        self.settings = settings
        self.workspace = Workspace(settings.out)
        self.schema: ClassSchema = load_schema(settings.classes)
        union = _class_indices(settings.union_classes, self.schema)
        refuse_overlap(self.workspace, (settings.coarse, settings.auto))
        pairs = list_pairs(settings.coarse, settings.auto, settings.layout, settings.ids, self.schema)
        self.decisive = self._decisive_settings(pairs, union)
        self.digest = settings_digest(self.decisive)
        self._merger = PairMerger(
            self.workspace, self.schema, settings.policy, union, settings.border_ignore, self.digest
        )
        with ExitStack() as stack:
            self.ledger = stack.enter_context(opened_run(self.workspace))
            before = compared_settings(self.ledger.settings or {})
            claim(self.workspace, self.ledger, before, self.decisive, settings, "merge", self.schema)
            wanted = [pair for pair in pairs if pair.auto is not None or settings.policy != "auto"]
            keys = frozenset(pair.key for pair in wanted)
            self.ledger.forget_failures(keys)
            self.plan = make_merge_plan(wanted, self.ledger, self.workspace, self.digest)
            self.summary = MergeSummary(
                total=len(wanted),
                skipped=len(self.plan.done),
                coarse_only=sum(pair.auto is None for pair in wanted),
                auto_only=sum(pair.coarse is None for pair in wanted),
                left_out=len(pairs) - len(wanted),
                stale=len(self.ledger.done_keys() - keys),
                counts=MergeCounts.zero(len(self.schema)),
            )
            self._marks: dict[str, Marks] = {}
            for done in self.plan.done:
                self._count(done)
            record_plan(self.workspace, self.ledger, self.summary.total, self.summary.skipped)
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _decisive_settings(self, pairs: tuple[LabelPair, ...], union: tuple[int, ...]) -> dict[str, object]:
        """What decides pixels, and who the parents are, as plain values: no paths."""
        files = [file for pair in pairs for file in (pair.coarse, pair.auto) if file is not None]
        of_source_ids = any(file.ids == "source" for file in files)
        return {
            "policy": self.settings.policy,
            "union_classes": [self.schema.names[index] for index in union],
            "border_ignore": list(self.settings.border_ignore),
            "classes": list(self.schema.names),
            "source_ids": {c.name: list(c.source_ids) for c in self.schema.classes} if of_source_ids else None,
            "coarse": parent_identity(self.settings.coarse),
            "auto": parent_identity(self.settings.auto),
            "merge_rule": MERGE_RULE,
        }

    def __iter__(self) -> Iterator[Entry]:
        """Do the work; yields the entry of every item that was to do, once it is in the ledger.

        Raises:
            WorkspaceError: a label or the ledger cannot be written; what was made before stays and counts.
        """
        refused: list[Merged | Entry] = [self._merger.failure(key, reason) for key, reason in self.plan.refused]
        try:
            yield from work_and_record(self.plan.to_do, self._merger.merge, self._commit, _WORKERS, refused)
            self._record_parents()
        finally:
            list_failures(self.workspace, self.ledger)

    def _commit(self, finished: list[Merged | Entry]) -> list[Entry]:
        """Record what is finished."""
        done = [one for one in finished if isinstance(one, Merged)]
        failed = [one for one in finished if isinstance(one, Entry)]
        entries = [*failed, *(one.entry for one in done)]
        if entries:
            self.ledger.commit(entries, {one.entry.key: one.note() for one in done})
        for one in done:
            self._count(one)
        self.summary.merged += len(done)
        self.summary.failed += len(failed)
        return entries

    def _count(self, done: Merged) -> None:
        self.summary.add(done)
        self._marks[done.entry.key] = done.marks

    def _record_parents(self) -> None:
        """Say in the ledger which label files were merged: of each parent, one digest over all of them."""
        files = []
        for side in (0, 1):
            marks = [(key, mark.sha256) for key in sorted(self._marks) if (mark := self._marks[key][side]) is not None]
            files.append(settings_digest(dict(marks)))
        self.ledger.claim(self.decisive | dict(zip(FILES_OF_PARENTS, files, strict=True)))


def _class_indices(names: tuple[str, ...], schema: ClassSchema) -> tuple[int, ...]:
    unknown = [name for name in names if name not in schema.names]
    if unknown:
        raise SettingsError(
            f"union_classes: {', '.join(unknown)} is no class of {schema.name!r}; known are {', '.join(schema.names)}"
        )
    return tuple(index for index, name in enumerate(schema.names) if name in names)
