"""Images to the device and labels back, beside the device's work.

On the CPU there is nothing to copy, and these are plain functions. On CUDA a copy between pinned memory and the device
is done by an engine of its own, and nothing waits for it but who needs its result.
"""

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from storage.errors import ImageError

Image = npt.NDArray[np.uint8]


def check_images(images: Sequence[Image]) -> None:
    """Refuse what is no batch of images.

    Raises:
        ImageError: one is not RGB, (height, width, 3) uint8, or they are of different sizes.
    """
    for image in images:
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ImageError(
                f"image is {image.dtype} {image.shape}, expected uint8 (height, width, 3): convert it to RGB"
            )
        if image.shape != images[0].shape:
            raise ImageError(f"images of a batch differ in size: {images[0].shape} and {image.shape}; label them apart")


@dataclass(frozen=True, slots=True)
class Upload:
    """Images on their way to the device."""

    images: Tensor
    """(batch, height, width, 3) uint8, on the device; `take` it rather than read it."""
    arrived: torch.cuda.Event | None = None
    """Passed once they are there; None: they are."""

    def take(self) -> Tensor:
        """The images, for work on the current stream, which waits for them; the host does not.

        Returns:
            (batch, height, width, 3) uint8.
        """
        if self.arrived is not None:
            current = torch.cuda.current_stream(self.images.device)
            current.wait_event(self.arrived)
            # made on another stream, which else could give the memory away while this one still reads
            self.images.record_stream(current)
        return self.images


@dataclass(frozen=True, slots=True)
class Download:
    """Values on their way to the host."""

    values: Tensor
    """On the host; `wait` for them rather than read them."""
    arrived: torch.cuda.Event | None = None
    """Passed once they are there; None: they are."""

    def wait(self) -> npt.NDArray[np.uint8]:
        """Wait until they are there; any thread may, and it sleeps meanwhile.

        Raises:
            RuntimeError: the device failed at something that it was given before. It says so only now, and to whoever
                asks next as well: after such an error CUDA does nothing more in this process.
        """
        if self.arrived is not None:
            self.arrived.synchronize()
        values: npt.NDArray[np.uint8] = self.values.numpy()
        return values


class Transfers:
    """The copies to and from one device.

    An image is height * width * 3 bytes up and at most 4 bytes a pixel down: at 1024x2048 6.3 MB and 2.1 MB (8.4 MB
    where confidence and runner-up are kept), 0.3 ms and 0.1 ms at PCIe's 25 GB/s; the network, HRNet-OCR at three
    scales, is 16 TFLOP. `upload` copies once on the host, into pinned memory, from where the device's engine takes it;
    called by another thread, or before the work on the batch before has ended, it costs the device nothing. Pinned
    memory is allocated by torch, which gives it out again once it is freed here and the copies from it are done.

    On the host, `upload` and `download` wait for nothing, `Upload.take` neither; only `Download.wait` does.

    Args:
        device: "cpu", or a CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call] # torch has no types here

    def upload(self, images: Sequence[Image]) -> Upload:
        """Send images of one size to the device as one batch; any thread may.

        Args:
            images: RGB, each (height, width, 3), uint8, at least one.
        """
        if self._stream is None:
            return Upload(torch.from_numpy(np.stack(images)))
        with torch.cuda.stream(self._stream):
            pinned = torch.empty((len(images), *images[0].shape), dtype=torch.uint8, pin_memory=True)
            np.stack(images, out=pinned.numpy())
            batch = pinned.to(self._device, non_blocking=True)
            return Upload(batch, self._stream.record_event())

    def download(self, values: Tensor) -> Download:
        """Send values to the host once the current stream has computed them.

        On that stream, which so takes up the next batch a tenth of a millisecond later, and keeps the values' memory
        until they are sent.

        Args:
            values: uint8, any shape, on the device.
        """
        if self._stream is None:
            return Download(values)
        pinned = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        pinned.copy_(values, non_blocking=True)
        arrived = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call] # torch has no types here
        arrived.record(torch.cuda.current_stream(values.device))
        return Download(pinned, arrived)


class UploadsAhead:
    """Uploads that are begun before they are asked for, by a thread of their own: filling pinned memory takes time too.

    At most two batches are on the device: the one that is asked for next and the one after it. What is told beyond
    that, by threads that share the device, pushes out the oldest, which is sent again when it is asked for.

    Args:
        transfers: to a CUDA device; on the CPU this would only keep copies.
    """

    def __init__(self, transfers: Transfers) -> None:
        self._transfers = transfers
        self._thread = ThreadPoolExecutor(1, "upload")
        self._lock = Lock()
        self._coming: deque[tuple[tuple[Image, ...], Future[Upload]]] = deque(maxlen=2)

    def expect(self, images: Sequence[Image]) -> None:
        """Begin to send images that will be asked for as one batch, unless that has begun; any thread may."""
        with self._lock:
            if not any(_same(images, others) for others, _ in self._coming):
                self._coming.append((tuple(images), self._thread.submit(self._transfers.upload, images)))

    def upload(self, images: Sequence[Image]) -> Upload:
        """As `Transfers.upload`, of what is on its way already where these very images were expected.

        Raises:
            RuntimeError, MemoryError: they could not be sent.
        """
        begun: Future[Upload] | None = None
        with self._lock:
            for place, (others, upload) in enumerate(self._coming):
                if _same(images, others):
                    begun = upload
                    del self._coming[place]
                    break
        return self._transfers.upload(images) if begun is None else begun.result()

    def clear(self) -> None:
        """Let go of what was sent and not asked for yet."""
        with self._lock:
            self._coming.clear()


def _same(images: Sequence[Image], others: Sequence[Image]) -> bool:
    return len(images) == len(others) and all(one is other for one, other in zip(images, others, strict=True))
