"""Maps of how much each scale counted in a label, as gray PNGs beside the labels: a folder a scale.

They are for people to look at.
"""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from storage.atomic_file import as_ours
from storage.errors import LabelError
from storage.label_png import read_label_values
from storage.workspace import Workspace

FULL = 255
"""What the maps of all scales sum to at each pixel."""


def attention_files(
    workspace: Workspace, key: str, scales: Sequence[float], maps: npt.NDArray[np.uint8]
) -> list[tuple[Path, bytes]]:
    """The files of an item's maps.

    Args:
        workspace: the run.
        key: of the item.
        scales: in the maps' order.
        maps: (scale, height, width).

    Returns:
        A path and its content for each scale: attention/SCALE/KEY.png, 8 bits gray.

    Raises:
        WorkspaceError: the key leads out of the workspace.
    """
    return [
        (workspace.attention_path(key, scale), encode_map(values)) for scale, values in zip(scales, maps, strict=True)
    ]


def forget_attention(workspace: Workspace, key: str) -> None:
    """Take away the maps of an item whose label is made anew without any: they would be taken for the new label's.

    Args:
        workspace: the run; of one in a store nothing is looked for, as no command reads maps there.
        key: of the item.

    Raises:
        WorkspaceError: the key leads out of the workspace, or a map cannot be removed.
    """
    if workspace.is_remote or not workspace.attention.is_dir():
        return
    for folder in workspace.attention.iterdir():
        if (scale := _scale(folder.name)) is not None:
            path = workspace.attention_path(key, scale)
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise as_ours(f"cannot remove {path}", error) from error


def encode_map(values: npt.NDArray[np.uint8]) -> bytes:
    """The file of a map (height, width)."""
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    return file.getvalue()


def read_attention(workspace: Workspace, key: str, size: tuple[int, int]) -> dict[float, npt.NDArray[np.uint8]]:
    """Read what is saved of an item's attention.

    Args:
        workspace: the run.
        key: of the item.
        size: (height, width) of its label.

    Returns:
        The map of each scale, (height, width), the smallest scale first; empty where none are saved.

    Raises:
        LabelError: a map cannot be read, or is of another size.
        WorkspaceError: the key leads out of the workspace.
    """
    folders = workspace.attention.iterdir() if workspace.attention.is_dir() else ()
    scales = sorted(scale for folder in folders if (scale := _scale(folder.name)) is not None)
    found = {}
    for scale in scales:
        path = workspace.attention_path(key, scale)
        if path.is_file():
            found[scale] = read_label_values(path)
            if found[scale].shape != size:
                raise LabelError(f"{path}: is {found[scale].shape}, the label {size}; remove the map")
    return found


def _scale(name: str) -> float | None:
    try:
        return float(name)
    except ValueError:
        return None
