"""Publishing a label: encoded, written into its run's folder, and told of in an entry.

Which labels are made, and what is recorded of them, is others' work.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from storage.label_map import LabelMap
from storage.label_png import DEFAULT_FORMAT, LabelFormat, encode_label_png
from storage.ledger import Entry
from storage.object_io import file_info
from storage.schema import ClassSchema
from storage.workspace import Workspace

IMAGE_SHA256 = "image_sha256"
"""By what a label, and its entry, know the file that the label was made from."""


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
        provenance: what it was made with, kept in the file, and with it the hash of its image where an entry has one.
        form: how it is written.
        schema: its classes, where the form needs them.
        beside: other files of the item, written before the label, which is what says that the item is whole.
        more: what else the entry says: the settings' digest, the image, the time.

    Raises:
        WorkspaceError: the label cannot be written.
        BudgetError: it would pass the run's budget.
    """
    path = workspace.label_path(key)
    image = {IMAGE_SHA256: more[IMAGE_SHA256]} if more.get(IMAGE_SHA256) else {}
    content = encode_label_png(label, {**provenance, **image}, form, schema)
    workspace.publish_together([*beside, (path, content)], rows=1)
    return Entry(
        key=key,
        status="done",
        height=label.height,
        width=label.width,
        ignored=label.ignored,
        bytes=len(content),
        modified_ns=file_info(path).modified_ns,
        sha256=hashlib.sha256(content).hexdigest(),
        counts=tuple(label.counts[: label.num_classes].tolist()),
        **more,
    )
