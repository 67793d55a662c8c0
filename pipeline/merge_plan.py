"""The plan of a merging run: which labels make a pair, which pairs are merged already, and which cannot be.

A pair is done if, and only if, the ledger has an entry with these settings' digest and the hashes of both parents, and
parents and label agree with what was recorded. A label that this run did not make is never replaced.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.merge_pair import ImageMark, LabelPair, Mark, Merged, pair_digest
from pipeline.run_folder import reason_to_keep
from pipeline.settings import settings_digest
from storage.agreement import file_agrees, label_agrees
from storage.errors import SettingsError, WorkspaceError
from storage.layouts import LabelFile, Layout, list_labels, pairing_key
from storage.ledger import Ledger
from storage.schema import ClassSchema, Ids
from storage.workspace import Workspace

FILES_OF_PARENTS = ("coarse_labels", "auto_labels")
"""Of a merging run's settings, what says which files were merged: recorded, and no setting to be compared."""


@dataclass(frozen=True, slots=True)
class MergePlan:
    """What a run has to do, and what it found done."""

    to_do: tuple[LabelPair, ...]
    done: tuple[Merged, ...]
    """Of earlier runs with these settings and these parents."""
    refused: tuple[tuple[str, str], ...]
    """Pairs that cannot be merged as things lie: (key, reason)."""


def list_pairs(coarse: Path, auto: Path, layout: Layout, ids: Ids | None, schema: ClassSchema) -> tuple[LabelPair, ...]:
    """Pair the labels of two sets, sorted by key; every label of either is in one pair.

    Raises:
        MissingFileError: there is no such folder.
        LayoutError: a set holds no labels, or two of one image.
        SchemaError: a RUN has other classes.
        WorkspaceError: a RUN's ledger cannot be read.
    """
    human, teacher = (list_labels(folder, layout, ids, schema) for folder in (coarse, auto))
    images = {}
    if (run := Workspace.holding(auto)) is not None:
        with Ledger(run.ledger, read_only=True) as ledger:
            images = {pairing_key(e.key): ImageMark(e.image_bytes, e.image_modified_ns, e.image_sha256) for e in ledger}
    keys = sorted(human.keys() | teacher.keys())
    return tuple(LabelPair(k, human.get(k), teacher.get(k), images.get(k, ImageMark())) for k in keys)


def refuse_overlap(workspace: Workspace, parents: Iterable[Path]) -> None:
    """Refuse an output folder whose labels would be taken for a parent's, by this run or by the next.

    Raises:
        SettingsError: it lies in a parent's label folder, or the other way round.
    """
    out, made = workspace.root.resolve(), workspace.labels.resolve()
    for parent in parents:
        run = Workspace.holding(parent)
        root = (parent if run is None else run.labels).resolve()
        if out.is_relative_to(root) or root.is_relative_to(made):
            raise SettingsError(
                f"--out {workspace.root} and the labels in {parent} lie in each other: merged labels would become "
                f"parents of the next merge; choose another --out"
            )


def parent_identity(folder: Path) -> str:
    """What a parent goes by in the ledger: a RUN by the digest of its settings, a folder by being one.

    Raises:
        WorkspaceError: the RUN's ledger cannot be read.
    """
    run = Workspace.holding(folder)
    if run is None:
        return "folder"
    with Ledger(run.ledger, read_only=True) as ledger:
        return f"run {settings_digest(compared_settings(ledger.settings or {}))}"


def compared_settings(settings: Mapping[str, object]) -> dict[str, object]:
    """A ledger's settings without the parents' files, which may change: what changed is merged again."""
    return {name: value for name, value in settings.items() if name not in FILES_OF_PARENTS}


def make_merge_plan(pairs: Iterable[LabelPair], ledger: Ledger, workspace: Workspace, digest: str) -> MergePlan:
    """Split pairs into those that are merged, those to merge, and those that are refused.

    Files are looked at; they are read only where their time differs from the one recorded.

    Args:
        pairs: what there is to merge.
        ledger: what earlier runs recorded.
        workspace: where the merged labels are.
        digest: of the settings that decide pixels.
    """
    to_do: list[LabelPair] = []
    done: list[Merged] = []
    refused: list[tuple[str, str]] = []
    for pair in pairs:
        try:
            pair.key.encode()
            label = workspace.label_path(pair.key)
        except UnicodeEncodeError:
            refused.append((repr(pair.key), f"{pair.key!r}: the name is not UTF-8; rename the label"))
            continue
        except WorkspaceError as error:
            refused.append((pair.key, f"{pair.key}: {error}"))
            continue
        earlier = _find_merged(pair, ledger, label, digest)
        if earlier is not None:
            done.append(earlier)
        elif reason := reason_to_keep(label, digest, "the pair merged"):
            refused.append((pair.key, reason))
        else:
            to_do.append(pair)
    return MergePlan(tuple(to_do), tuple(done), tuple(refused))


def _find_merged(pair: LabelPair, ledger: Ledger, label: Path, digest: str) -> Merged | None:
    """What an earlier run made of a pair, if it still holds."""
    entry = ledger.get(pair.key)
    if entry is None or entry.status != "done":
        return None
    note = ledger.note(pair.key)
    if note is None:
        return None
    merged = Merged.from_note(entry, note)
    holds = (
        entry.settings_digest == pair_digest(digest, pair, merged.marks)
        and _is_as_marked(pair.coarse, merged.marks.coarse)
        and _is_as_marked(pair.auto, merged.marks.auto)
        and label_agrees(entry, label)
    )
    return merged if holds else None


def _is_as_marked(file: LabelFile | None, mark: Mark | None) -> bool:
    if file is None or mark is None:
        return file is None and mark is None
    return file_agrees(file.path, *mark)
