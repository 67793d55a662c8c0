"""The guard against judging a network on images it was trained on.

A checkpoint's record lists their hashes; images are told apart by content, so that a renamed copy is recognised.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from pipeline.samples import Sample
from storage.errors import LeakError
from storage.object_io import file_digest

_READERS = 4
_NAMED = 5


def hash_images(samples: Sequence[Sample]) -> Iterator[str]:
    """Hash the samples' image files, sha256, in their order; reads each of them once."""
    with ThreadPoolExecutor(_READERS, "hash") as pool:
        try:
            yield from pool.map(lambda sample: file_digest(sample.image), samples)
        finally:
            pool.shutdown(cancel_futures=True)


def refuse_trained_images(
    samples: Sequence[Sample], trained_on: Mapping[str, str], what: str, digests: Sequence[str] | None = None
) -> None:
    """Refuse to judge a network on images that it knows.

    Args:
        samples: what it is to be judged on.
        trained_on: sha256 of each image file it was trained on -> its key; empty where that is not known.
        what: the network, for the message.
        digests: sha256 of the samples' image files, where it is known; else they are read.

    Raises:
        LeakError: a sample's image is among them; the message names the first few.
    """
    if not trained_on:
        return
    known = [
        (sample, trained_on[digest])
        for sample, digest in zip(samples, digests or hash_images(samples), strict=True)
        if digest in trained_on
    ]
    if known:
        named = ", ".join(
            f"{sample.image}" + ("" if sample.key == key else f" (trained on as {key})")
            for sample, key in known[:_NAMED]
        )
        more = ", ..." if len(known) > _NAMED else ""
        raise LeakError(
            f"{len(known)} of {len(samples)} images to evaluate on were trained on by {what}: {named}{more}; figures "
            f"on them would say nothing about new images. Take them out, or allow it with --allow-training-images"
        )
