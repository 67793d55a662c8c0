"""A picture of a label for people: beside its image where that is at hand, and with what the attention saw."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from PIL import Image

from pipeline.inspection import Inspection
from pipeline.pictures import contact_sheet
from pipeline.settings import read_label_settings
from storage.attention_maps import read_attention
from storage.errors import AutocoarseError, SettingsError
from storage.image_reader import read_image
from storage.label_png import read_label_png
from storage.layouts import list_images
from storage.schema import ClassSchema, load_schema
from storage.workspace import Workspace

MAX_SIDE = 1024
"""Pixels of the longer side of each cell; what is larger is shown by every so-many-th pixel."""


def label_picture(found: Inspection, schema: ClassSchema | None = None) -> Image.Image:
    """Draw a label: its image, the label in its classes' colours, and the share of each scale, dark 0 to bright 1.

    The image is looked for where its run found it, and left out where it is not there any more; the shares are drawn
    where the run saved them.

    Args:
        found: of the label's file.
        schema: its classes; None: those of its run.

    Raises:
        SettingsError: nobody says what its classes are.
        LabelError: the label, or a map of its attention, cannot be read.
    """
    workspace = None if found.run is None else Workspace(found.run)
    if schema is None:
        if workspace is None or not workspace.classes.is_file():
            raise SettingsError(f"{found.path} lies in no run that says what its classes are; name them by --classes")
        schema = load_schema(str(workspace.classes))
    size = (found.height, found.width)
    cells: dict[str, npt.NDArray[np.uint8]] = {}
    if workspace is not None and found.key is not None and (image := _image_of(workspace, found.key, size)) is not None:
        cells["image"] = image
    cells["label"] = read_label_png(found.path, schema, found.ids, size).values
    if workspace is not None and found.key is not None:
        cells |= _shares(read_attention(workspace, found.key, size))
    step = -(-max(size) // MAX_SIDE)
    return contact_sheet([[cell[::step, ::step] for cell in cells.values()]], list(cells), schema)


def _shares(maps: Mapping[float, npt.NDArray[np.uint8]]) -> dict[str, npt.NDArray[np.uint8]]:
    bright = (255 * colormaps["magma"](np.arange(256))[:, :3]).astype(np.uint8)
    return {f"share of scale {scale:g}": bright[values] for scale, values in maps.items()}


def _image_of(workspace: Workspace, key: str, size: tuple[int, int]) -> npt.NDArray[np.uint8] | None:
    try:
        settings = read_label_settings(workspace.settings)
        items = list_images(settings.images, settings.layout, exclude=[workspace.root]).items
        path = next((item.image for item in items if item.key == key), None)
        image = None if path is None else read_image(path)
    except AutocoarseError:  # moved, or no longer readable: the label is what was asked for
        return None
    return image if image is not None and image.shape[:2] == size else None
