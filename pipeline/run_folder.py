"""What all runs that write labels do with their folder: never take another's, never replace a human's, list failures.

Which labels are made, and how, is in `labelling` and `merging`.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

from pipeline.settings import LabelSettings, Settings, settings_difference
from storage.broken_ledger import broken_ledger
from storage.errors import BudgetError, ForeignSettingsError, LabelError, WorkspaceError
from storage.label_png import read_provenance
from storage.ledger import Ledger
from storage.ledger_copy import LedgerCopy
from storage.object_io import file_info, find_file, remove_file
from storage.object_walk import walk_objects
from storage.schema import ClassSchema
from storage.shard import Shard
from storage.workspace import Workspace

_THRESHOLDS = frozenset({"threshold", "class_thresholds"})
"""The settings that `rethreshold` can change."""


@contextlib.contextmanager
def opened_run(workspace: Workspace) -> Iterator[Ledger]:
    """Hold a run's folder for this process, give its ledger to be written, and sweep up what was left half written.

    What nobody claimed the ledger for, as it was refused, leaves no folder that passes for a run.

    Raises:
        ForeignSettingsError: it holds labels that no ledger speaks of.
        BrokenLedgerError: its ledger is gone or damaged.
        WorkspaceError: it cannot be written, or another process has it.
    """
    is_new, is_claimed = not workspace.state.exists(), True
    lock = workspace.lock()
    try:
        workspace.prepare()
        copy = LedgerCopy(workspace) if workspace.is_remote else None
        if copy is not None:
            copy.fetch()
        if not workspace.ledger.exists() or not workspace.ledger.stat().st_size:
            _refuse_strangers(workspace)
        with Ledger(workspace.ledger) as ledger, copy or contextlib.nullcontext():
            if not workspace.is_remote and ledger.settings is None and workspace.settings.is_file():
                _refuse_strangers(workspace)  # an empty one was opened before, and is a ledger by now
            try:
                yield ledger
            finally:
                with contextlib.suppress(WorkspaceError):  # one that cannot be read is not taken for empty
                    is_claimed = ledger.settings is not None
    finally:
        workspace.tidy()
        if not is_claimed:
            _take_back(workspace, Path(lock.lock_file) if is_new else None)
        lock.release()


def _take_back(workspace: Workspace, lock_file: Path | None) -> None:
    """Remove a ledger that nobody claimed, and folders that have nothing in them; with the lock also the run's own."""
    with contextlib.suppress(OSError):
        workspace.ledger.unlink()
        if not workspace.is_remote:
            workspace.labels.rmdir()
        if lock_file is not None:
            lock_file.unlink()
            workspace.state.rmdir()


def _refuse_strangers(workspace: Workspace) -> None:
    """Never write over labels that no ledger speaks of: they may be a human's, or those of a ledger that was lost."""
    if workspace.is_remote:
        if find_file(workspace.settings) is not None:
            return  # a run whose driver was lost before it copied its ledger; each label says whether it is a run's
        names = (found.relative for found in walk_objects(workspace.labels))
    else:
        names = (path.name for path in workspace.labels.rglob("*.png"))
    if (stranger := next((name for name in names if name.endswith(".png")), None)) is not None:
        if workspace.settings.is_file():  # no run writes them before its ledger has them
            raise broken_ledger(workspace.ledger, f"the ledger {workspace.ledger} is gone or empty")
        raise ForeignSettingsError(
            f"{workspace.labels} holds labels such as {stranger}, and no ledger.sqlite says that they are a "
            f"run's; choose another --out"
        )


def refuse_foreign(
    workspace: Workspace,
    ledger: Ledger,
    before: Mapping[str, object] | None,
    decisive: Mapping[str, object],
    settings: Settings,
) -> None:
    """Never write among labels of other settings, or of another shard.

    Args:
        workspace: the folder.
        ledger: its ledger.
        before: the decisive settings of the run that the folder holds; None or empty where it holds none.
        decisive: those of this run.
        settings: all of this run's.

    Raises:
        ForeignSettingsError: the folder holds labels of other settings, or what became of the items of another shard;
            the message shows the difference.
    """
    shard = _shard_of(settings)
    foreign = before != decisive and ledger.has_labels()
    if before and (foreign or (ledger.shard != shard and ledger.has_entries())):
        difference = settings_difference(_with_shard(before, ledger.shard), _with_shard(decisive, shard))
        other = {name for name in before.keys() | decisive.keys() if before.get(name) != decisive.get(name)}
        hint = ""
        if foreign and other <= _THRESHOLDS and not workspace.is_remote and workspace.soft.is_dir():
            hint = f"; its confidence is kept: `autocoarse rethreshold {workspace.root}` applies other thresholds"
        raise ForeignSettingsError(
            f"{workspace.root} holds labels made with other settings:\n{difference}\n"
            f"choose another --out, or repeat the settings that are there{hint}"
        )


def claim(
    workspace: Workspace,
    ledger: Ledger,
    before: Mapping[str, object] | None,
    decisive: dict[str, object],
    settings: Settings,
    table: str,
    schema: ClassSchema,
) -> None:
    """Take a folder for a run's settings.

    Args:
        workspace: the folder.
        ledger: its ledger.
        before: as in `refuse_foreign`.
        decisive: as in `refuse_foreign`.
        settings: all of them, which are written into the folder.
        table: the command, for the settings file.
        schema: the classes of its labels.

    Raises:
        ForeignSettingsError: as in `refuse_foreign`.
        WorkspaceError: the folder cannot be written.
    """
    refuse_foreign(workspace, ledger, before, decisive, settings)
    ledger.claim(decisive, _shard_of(settings))
    workspace.publish(workspace.settings, settings.to_toml(table), small=True)
    workspace.publish(workspace.classes, (json.dumps(schema.to_dict(), indent=1) + "\n").encode(), small=True)


def _shard_of(settings: Settings) -> Shard | None:
    return settings.shard if isinstance(settings, LabelSettings) else None


def _with_shard(settings: Mapping[str, object], shard: Shard | None) -> dict[str, object]:
    return dict(settings) if shard is None else {**settings, "shard": str(shard)}


def record_plan(workspace: Workspace, ledger: Ledger, total: int, skipped: int, *, labels_are_new: bool = True) -> None:
    """Leave in a run's ledger what it sets out to do, for those who look on while it works.

    Args:
        workspace: its folder, claimed by now.
        ledger: its ledger.
        total: items that it is to have, whatever becomes of them.
        skipped: of these, the ones that an earlier run has done.
        labels_are_new: whether the labels that it publishes are of its own time; links to others' are not.

    Raises:
        WorkspaceError: the ledger cannot be written.
    """
    ledger.record_plan(
        {
            "total": total,
            "skipped": skipped,
            "started": datetime.now(UTC).isoformat(),
            # the time by the disk's own clock, which may be another machine's: labels of this run are not older
            "labels_since_ns": file_info(workspace.settings).modified_ns if labels_are_new else 0,
        }
    )


def reason_to_keep(label: Path, digest: str, work: str) -> str:
    """Why what lies in a label's place must not be replaced; empty where nothing, a torn file or our own lies there.

    Args:
        label: the place.
        digest: of this run's decisive settings.
        work: what is to be done there, for the message: "the image labelled".
    """
    try:
        if read_provenance(label).get("settings") == digest:
            return ""
    except (FileNotFoundError, LabelError):
        return ""
    except WorkspaceError:
        raise  # a store that does not answer says nothing of the label
    except OSError as error:
        return f"{label}: cannot be read: {error.strerror}; move it away to have {work}"
    return f"{label} was not made by this run; move it away to have {work}"


def list_failures(workspace: Workspace, ledger: Ledger) -> None:
    """Write the reason of each failed item, one a line; no file where nothing failed.

    Raises:
        WorkspaceError: the file cannot be written.
    """
    reasons = [" ".join(entry.reason.split()) for entry in ledger.failures()]
    if reasons:
        # where even this has no room the ledger has the reasons, and the file comes with the next run
        with contextlib.suppress(BudgetError):
            content = "".join(f"{reason}\n" for reason in reasons).encode()
            workspace.publish(workspace.failures, content, small=True)
            return
    remove_file(workspace.failures)
