"""What all runs that write labels do with their folder: never take another's, never replace a human's, list failures.

Which labels are made, and how, is in `labelling` and `merging`.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.settings import Settings, settings_difference
from storage.errors import BudgetError, ForeignSettingsError, LabelError
from storage.label_map import LabelMap
from storage.label_png import DEFAULT_FORMAT, LabelFormat, encode_label_png, read_provenance
from storage.ledger import Entry, Ledger
from storage.schema import ClassSchema
from storage.workspace import Workspace, write_atomically


@contextlib.contextmanager
def opened_run(workspace: Workspace) -> Iterator[Ledger]:
    """Hold a run's folder for this process, give its ledger to be written, and sweep up what was left half written.

    Raises:
        ForeignSettingsError: it holds labels that no ledger speaks of.
        WorkspaceError: it cannot be written, or another process has it.
    """
    lock = workspace.lock()
    try:
        workspace.prepare()
        _refuse_strangers(workspace)
        with Ledger(workspace.ledger) as ledger:
            yield ledger
    finally:
        workspace.tidy()
        lock.release()


def _refuse_strangers(workspace: Workspace) -> None:
    """Never write over labels that no ledger speaks of: they may be a human's."""
    stranger = next(workspace.labels.rglob("*.png"), None)
    if stranger is not None and not workspace.ledger.exists():
        raise ForeignSettingsError(
            f"{workspace.labels} holds labels such as {stranger.name}, and no ledger.sqlite says that they are a "
            f"run's; choose another --out"
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
    """Take a folder for a run's settings, unless it holds labels of others.

    Args:
        workspace: the folder.
        ledger: its ledger.
        before: the decisive settings of the run that the folder holds; None or empty where it holds none.
        decisive: those of this run.
        settings: all of them, which are written into the folder.
        table: the command, for the settings file.
        schema: the classes of its labels.

    Raises:
        ForeignSettingsError: the folder holds labels of other settings; the message shows the difference.
        WorkspaceError: the folder cannot be written.
    """
    if before and before != decisive and ledger.has_labels():
        raise ForeignSettingsError(
            f"{workspace.root} holds labels made with other settings:\n{settings_difference(before, decisive)}\n"
            f"choose another --out, or repeat the settings that are there"
        )
    ledger.claim(decisive)
    settings.write(workspace.settings, table)
    write_atomically(workspace.classes, (json.dumps(schema.to_dict(), indent=1) + "\n").encode())


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
    except OSError as error:
        return f"{label}: cannot be read: {error.strerror}; move it away to have {work}"
    return f"{label} was not made by this run; move it away to have {work}"


def publish_label(
    workspace: Workspace,
    key: str,
    label: LabelMap,
    provenance: Mapping[str, str | float],
    form: LabelFormat = DEFAULT_FORMAT,
    schema: ClassSchema | None = None,
    beside: Sequence[tuple[Path, bytes]] = (),
    **more: Any,  # noqa: ANN401 - fields of an entry
) -> Entry:
    """Write a label into a run's folder, and give the entry that says what was written.

    Args:
        workspace: the folder.
        key: of the item.
        label: what is written.
        provenance: what it was made with, kept in the file.
        form: how it is written.
        schema: its classes, where the form needs them.
        beside: other files of the item, written before the label, which is what says that the item is whole.
        more: what else the entry says: the settings' digest, the image, the time.

    Raises:
        WorkspaceError: the label cannot be written.
        BudgetError: it would pass the run's budget.
    """
    path = workspace.label_path(key)
    content = encode_label_png(label, provenance, form, schema)
    workspace.publish_together([*beside, (path, content)], rows=1)
    return Entry(
        key=key,
        status="done",
        height=label.height,
        width=label.width,
        ignored=label.ignored,
        bytes=len(content),
        modified_ns=path.stat().st_mtime_ns,
        sha256=hashlib.sha256(content).hexdigest(),
        counts=tuple(label.counts[: label.num_classes].tolist()),
        **more,
    )


def list_failures(workspace: Workspace, ledger: Ledger) -> None:
    """Write the reason of each failed item, one a line; no file where nothing failed.

    Raises:
        WorkspaceError: the file cannot be written.
    """
    reasons = [" ".join(entry.reason.split()) for entry in ledger if entry.status == "failed"]
    if reasons:
        # a full budget must not hide the failures: the ledger has them, and the file comes with the next run
        with contextlib.suppress(BudgetError):
            workspace.publish(workspace.failures, "".join(f"{reason}\n" for reason in reasons).encode())
    else:
        workspace.failures.unlink(missing_ok=True)
