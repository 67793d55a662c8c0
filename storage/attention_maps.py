"""Maps of how much each scale counted in a label, as gray PNGs beside the labels: a folder a scale.

They are for people to look at; nothing reads them back.
"""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from storage.workspace import Workspace


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
    return [(workspace.attention_path(key, scale), _encode(values)) for scale, values in zip(scales, maps, strict=True)]


def _encode(values: npt.NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    return file.getvalue()
