"""Images read ahead of the device: decoded by threads, in order, through a bounded queue, grouped by size.

A failure to read is a result like any other; what becomes of it is decided by whoever asked.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from storage.errors import AutocoarseError
from storage.image_reader import read_image
from storage.layouts import Item
from storage.ledger import file_digest


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
        found = item.image.stat()
        # hashed before it is decoded: a file that is replaced meanwhile then disagrees with its entry on the next run
        digest = file_digest(item.image)
        return Decoded(item, read_image(item.image), "", found.st_size, found.st_mtime_ns, digest)
    except AutocoarseError as error:
        return Decoded(item, reason=str(error))
    except OSError as error:
        return Decoded(item, reason=f"{item.image}: cannot be read: {error.strerror or error}")
    except MemoryError as error:
        return Decoded(item, reason=f"{item.image}: out of memory: {error}")


def read_ahead(items: Iterable[Item], pool: ThreadPoolExecutor, depth: int) -> Iterator[Decoded]:
    """Decode items in order, at most `depth` ahead of the consumer."""
    pending: deque[Future[Decoded]] = deque()
    for item in items:
        pending.append(pool.submit(_decode, item))
        if len(pending) >= depth:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


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
