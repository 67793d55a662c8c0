"""Images read ahead of the device: decoded by threads, in order, through a bounded queue, grouped by size.

A failure to read is a result like any other; what becomes of it is decided by whoever asked.
"""

import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.threads import map_ahead
from storage.errors import AutocoarseError, WorkspaceError
from storage.image_reader import decode_image, read_content
from storage.layouts import Item


@dataclass(frozen=True, slots=True)
class Decoded:
    """An image read, or the reason why it could not be."""

    item: Item
    image: npt.NDArray[np.uint8] | None = None
    """(height, width, 3) uint8 RGB."""
    reason: str = ""
    image_bytes: int = 0
    image_modified_ns: int = 0
    image_sha256: str = ""
    """The last three are of the image file, as in the ledger's `Entry`."""


def _decode(item: Item) -> Decoded:
    try:
        # read once, so that what is hashed is what is decoded
        content, found = read_content(item.image)
        digest = hashlib.sha256(content).hexdigest()
        return Decoded(item, decode_image(item.image, content), "", found.size, found.modified_ns, digest)
    except WorkspaceError:
        raise  # a store that does not answer is no fault of one image
    except AutocoarseError as error:
        return Decoded(item, reason=str(error))
    except MemoryError as error:
        return Decoded(item, reason=f"{item.image}: out of memory: {error}")


def read_ahead(items: Iterable[Item], pool: ThreadPoolExecutor, depth: int) -> Iterator[Decoded]:
    """Decode items in order, at most `depth` ahead of the consumer."""
    return map_ahead(_decode, items, pool, depth)


def group_by_size(decoded: Iterable[Decoded], limit: int) -> Iterator[list[Decoded]]:
    """Group at most `limit` neighbours whose images are of one size; an image that could not be read stands alone."""
    batch: list[Decoded] = []
    for one in decoded:
        shape = None if one.image is None else one.image.shape
        if batch and (len(batch) == limit or batch[0].image is None or batch[0].image.shape != shape):
            yield batch
            batch = []
        batch.append(one)
    if batch:
        yield batch
