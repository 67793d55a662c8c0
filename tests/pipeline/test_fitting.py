"""The way that fits in memory: the largest that does, whole before tiles."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.fitting import TILES, USED_SHARE, Fit, Work, fit, memory_of, next_tile, tile_sides, whole_image
from pipeline.step_down import StepDown, Way
from storage.errors import ImageError
from teacher import load_teacher
from teacher.memory_plan import ForwardMemory, LabelMemory
from teacher.tiling import GLOBAL_CONTEXT, smallest_tile

MEMORY = LabelMemory(weights=300_000_000, forward=ForwardMemory(0, 1000), classes=19, working=0, on_host=False)
ON_HOST = LabelMemory(weights=300_000_000, forward=ForwardMemory(0, 1000), classes=19, working=0, on_host=True)
WORK = Work((0.5, 1.0, 2.0))
SIZE = (1024, 2048)


def test_what_fits_is_labelled_as_asked() -> None:
    """With room for it, as many images are labelled together as was asked, whole."""
    assert fit(MEMORY, SIZE, WORK, room=10**12, batch=4).way == Way(4)


def test_less_room_means_fewer_images_then_smaller_tiles() -> None:
    """As the room shrinks, the batch is halved, then tiles come, the largest that fit, and at last nothing does."""
    ways = [fit(MEMORY, SIZE, WORK, room=int(room * 1e9), batch=4) for room in (42, 22, 11, 5, 3, 0.5)]
    assert [found.way for found in ways] == [
        Way(4),
        Way(2),
        Way(1),
        Way(1, 2048),
        Way(1, 1536),
        Way(1, 384),
    ]
    assert [found.fits for found in ways] == [True] * 5 + [False]


@given(
    room=st.integers(10**8, 10**11),
    batch=st.integers(1, 16),
    size=st.tuples(st.integers(8, 6000), st.integers(8, 6000)),
)
def test_what_is_said_to_fit_does(room: int, batch: int, size: tuple[int, int]) -> None:
    """What fits takes no more than its share of the room, and what takes the next larger way does not fit."""
    found = fit(MEMORY, size, WORK, room, batch)
    assert found.fits == (found.peak <= USED_SHARE * room)
    assert found.way.batch <= batch
    if found.way.tile is not None:
        assert not whole_image(MEMORY, size, WORK, room).fits


def test_tiles_are_smaller_than_the_image_and_leave_room_for_the_overlap() -> None:
    """Every side that is offered at least halves the largest scale, and none is too small to be cut."""
    assert tile_sides((1024, 2048), (1.0, 2.0)) == TILES
    assert tile_sides((1024, 2048), (1.0,)) == (1024, 768, 512, 384)
    assert tile_sides((200, 300), (1.0,)) == ()
    assert min(TILES) >= 2 * smallest_tile(GLOBAL_CONTEXT) - 64


def test_steps_go_down_the_tiles() -> None:
    """Used for stepping down, whole images are followed by each smaller tile, and the last by none."""
    steps = StepDown(lambda _: Way(2), lambda size, tile: next_tile(size, (1.0,), tile))
    seen = [steps.way((1000, 1000))]
    while steps.step_down((1000, 1000), seen[-1].batch):
        seen.append(steps.way((1000, 1000)))
    assert seen == [Way(2), Way(1), Way(1, 512), Way(1, 384)]


def test_on_the_cpu_what_waits_counts_too_and_little_room_is_tight() -> None:
    """Images that are read ahead are in the same memory; a plan that takes most of it needs freed blocks returned."""
    host, cuda = (whole_image(memory, SIZE, WORK, 10**12) for memory in (ON_HOST, MEMORY))
    assert host.peak - ON_HOST.peak(SIZE, WORK.scales) == 9 * 4 * 1024 * 2048 + ON_HOST.weights
    assert cuda.peak == MEMORY.peak(SIZE, WORK.scales)
    assert (host.tight, cuda.tight) == (False, False)
    assert whole_image(ON_HOST, SIZE, WORK, 2 * host.peak) == Fit(Way(1), host.peak, fits=True, tight=True)
    assert not whole_image(MEMORY, SIZE, WORK, 2 * host.peak).tight


def test_a_teacher_is_measured_as_it_runs(tiny_teacher: Path) -> None:
    """A loaded teacher tells its weights, its classes and what a pixel takes; in stripes that is less."""
    full, half = (memory_of(load_teacher(tiny_teacher, precision=precision)) for precision in ("fp32", "bf16"))
    assert full.classes == 3
    assert full.on_host
    assert 1e6 < full.weights < 1e8
    large = 4 * 1080 * 1920
    assert 0 < full.forward.peak(large) < half.forward.peak(large)  # which is not computed in stripes


def test_images_too_small_for_the_scales_are_refused() -> None:
    """A size that cannot be labelled has the error that labelling it has."""
    with pytest.raises(ImageError, match="at least"):
        fit(MEMORY, (6, 6), WORK, 10**12)
