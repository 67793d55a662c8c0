"""The images of a calibration: decided, and counted against their truth, one after the other.

What is kept of the counts, and when, is in `calibrating`.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from pipeline.calibration_counts import PixelCounts
from pipeline.calibration_state import CalibrationState
from pipeline.decider import Decided, Decider, TilingDecider
from pipeline.deciding import one_behind
from pipeline.samples import Sample, read_ahead
from pipeline.step_down import StepDown, Way
from storage.errors import ImageError
from storage.label_map import LabelMap
from storage.out_of_memory import is_out_of_memory
from storage.schema import ClassSchema


def count_samples(
    samples: Sequence[Sample], schema: ClassSchema, decider: Decider, state: CalibrationState
) -> Iterator[CalibrationState]:
    """Count images, one after the other; at most a few are in memory.

    Args:
        samples: all of them, also those that are in the state already.
        schema: the classes.
        decider: keeps class and confidence of each pixel.
        state: what is counted already.

    Yields:
        The state after each image. One whose image or truth cannot be read, or that is too small, has failed.

    Raises:
        WorkspaceError: a store does not answer.
        RuntimeError, MemoryError: the device cannot predict.
    """
    for sample, found in one_behind(_decide_all(samples[state.done :], schema, decider)):
        if isinstance(found, str):
            state = state.without(sample.key, found)
        else:
            truth, decided = found
            planes = decided.soft
            assert planes is not None, "the decider was asked to keep confidence"
            state = state.plus(PixelCounts.of_image(truth, planes, state.counts.steps), truth.unknown)
        yield state


def _decide_all(
    samples: Sequence[Sample], schema: ClassSchema, decider: Decider
) -> Iterator[tuple[Sample, tuple[LabelMap, Decided] | str]]:
    """Each sample with its truth and what is decided of it, or with why nothing can be."""
    ways = _ways(decider)
    for sample, content in read_ahead(samples, schema):
        if isinstance(content, str):
            yield sample, content
            continue
        image, truth = content
        try:
            decided = _decide(decider, ways, image)
        except ImageError as error:
            yield sample, f"{sample.image}: {error}"
        else:
            yield sample, (truth, decided)


def _ways(decider: Decider) -> StepDown:
    if isinstance(decider, TilingDecider):
        return StepDown(lambda size: decider.first_way(size, 1), decider.next_tile)
    return StepDown(lambda _: Way(), lambda *_: None)


def _decide(decider: Decider, ways: StepDown, image: npt.NDArray[np.uint8]) -> Decided:
    """Class and confidence of each pixel, perhaps still on their way; in tiles where memory does not suffice."""
    size = (image.shape[0], image.shape[1])
    while True:
        way = ways.way(size)
        try:
            if way.tile is not None and isinstance(decider, TilingDecider):
                (decided,) = decider.decide_in_tiles([image], way.tile)
            else:
                (decided,) = decider.decide([image])
        except (RuntimeError, MemoryError) as error:
            if not (is_out_of_memory(error) and ways.step_down(size, 1)):
                raise
        else:
            return decided
        if isinstance(decider, TilingDecider):
            decider.free_memory()  # not before the error, which held on to it, is gone
