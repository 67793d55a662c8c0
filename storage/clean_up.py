"""Clean-up of label maps: components too small to be trusted become ignore.

No pixel is ever given another class, and no file is read or written.
"""

import numpy as np

from storage.errors import SettingsError
from storage.label_map import LabelMap
from storage.schema import IGNORE


def remove_small_components(label: LabelMap, min_pixels: int) -> LabelMap:
    """Turn the small components of a label map into ignore.

    A component is a largest set of pixels of one class that are connected over their edges (4-connected); ignore forms
    no component. Twice is the same as once: what is left of a class are whole components.

    Args:
        label: what to clean; it is left as it is.
        min_pixels: components of fewer pixels become ignore; 0 and 1 change nothing.

    Returns:
        The cleaned label: of the same size, classes and `unknown`.

    Raises:
        SettingsError: `min_pixels` is negative.
    """
    if min_pixels < 0:
        raise SettingsError(f"components of fewer than {min_pixels} pixels do not exist; expected 0 or more pixels")
    if min_pixels <= 1:
        return label
    # imported where it is needed: it takes half a second, and every command and worker would wait for it
    from skimage.measure import label as number_components

    # 0 where ignored
    components = number_components(label.values, background=IGNORE, connectivity=1)  # type: ignore[no-untyped-call]
    small = np.bincount(components.ravel()) < min_pixels
    values = np.where(small[components], np.uint8(IGNORE), label.values)
    return LabelMap(values, label.num_classes, label.unknown)
