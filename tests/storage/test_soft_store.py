"""The soft store: every threshold of its grid is decided as on the float, and what is damaged is known."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import ForeignSettingsError, LabelError, SettingsError
from storage.schema import IGNORE
from storage.soft_store import (
    MAX_STEPS,
    NO_CONFIDENCE,
    Planes,
    SoftStore,
    StoreForm,
    apply_thresholds,
    level_of,
    threshold_grid,
)

FORM = StoreForm("confidence", 100, ("road", "pole", "sky"))


def write(root: Path, form: StoreForm, images: list[Planes]) -> SoftStore:
    """Write a store as a run does, one slot after the other."""
    root.mkdir()
    (root / "zarr.json").write_bytes(form.group_metadata())
    store = SoftStore.find(root)
    assert store is not None
    for slot, planes in enumerate(images):
        size = (planes.shape[1], planes.shape[2])
        store.array_path(size).mkdir(exist_ok=True)
        (store.array_path(size) / "zarr.json").write_bytes(form.array_metadata(size, len(images)))
        store.chunk_path(slot, size).write_bytes(form.encode(planes))
    return store


def noise(size: tuple[int, int], seed: int, planes: int = 2) -> Planes:
    """Random classes and codes."""
    return np.random.default_rng(seed).integers(0, 3, (planes, *size), np.uint8)


def test_what_is_written_is_read_back_also_by_zarr_itself(tmp_path: Path) -> None:
    """Images of several sizes come back by slot; to any reader of zarr an image is one index of its size's array."""
    images = [noise((6, 8), 0), noise((5, 8), 1), noise((6, 8), 2)]
    store = write(tmp_path / "soft", FORM, images)
    for slot, planes in enumerate(images):
        np.testing.assert_array_equal(store.read(slot, planes.shape[1:]), planes)  # type: ignore[arg-type]
    array = zarr.open_array(tmp_path / "soft" / "h6w8", mode="r")
    assert array.metadata.zarr_format == 3
    assert array.chunks == (1, 2, 6, 8)
    np.testing.assert_array_equal(np.asarray(array[2]), images[2])
    assert store.array_sizes() == ((5, 8), (6, 8))
    assert store.form == FORM


def test_a_pixel_that_was_never_written_has_no_confidence(tmp_path: Path) -> None:
    """A slot of another size is zarr's fill value, which is no confidence at any threshold."""
    write(tmp_path / "soft", FORM, [noise((6, 8), 0), noise((5, 8), 1)])
    assert np.all(np.asarray(zarr.open_array(tmp_path / "soft/h6w8", mode="r")[1]) == NO_CONFIDENCE)


@given(
    st.integers(1, MAX_STEPS).flatmap(lambda steps: st.tuples(st.just(steps), st.integers(0, steps - 1))),
    st.floats(0, 1, width=32),
)
def test_codes_decide_every_threshold_of_the_grid_as_the_float_does(grid: tuple[int, int], confidence: float) -> None:
    """Code >= k if, and only if, confidence > k / steps, both as float32; also within a rounding of the threshold."""
    steps, k = grid
    thresholds = threshold_grid(steps)
    for p in (np.float32(confidence), thresholds[k], *np.nextafter(thresholds[k], np.float32([0, 1]))):
        if p <= 0:
            continue
        code = int(np.searchsorted(thresholds, p, side="left")) - 1
        assert (code >= k) == (p > np.float32(k / steps))


def test_a_threshold_off_the_grid_is_refused_with_its_neighbours() -> None:
    """What cannot be decided exactly is not decided at all."""
    assert level_of(0.9, 100) == 90
    assert level_of(0.29, 100) == 29, "0.29 * 100 is not 29"
    with pytest.raises(SettingsError, match=r"0\.905 is not on the grid.*0\.9 and 0\.91"):
        level_of(0.905, 100)
    with pytest.raises(SettingsError, match="1 to 255"):
        threshold_grid(256)


def test_each_class_has_a_threshold_of_its_own() -> None:
    """A pixel stays where its code reaches its class's level; without confidence it never does."""
    planes = np.array([[[0, 0, 1, 1, 2, 2]], [[49, 50, 79, 80, NO_CONFIDENCE, 0]]], np.uint8)
    label = apply_thresholds(planes, (0.5, 0.8, 0), 100)
    assert label.tolist() == [[IGNORE, 0, IGNORE, 1, IGNORE, 2]]
    with pytest.raises(LabelError, match=r"class 2, expected 0\.\.1"):
        apply_thresholds(planes, (0.5, 0.5), 100)


def damage(content: bytes, position: int) -> bytes:
    """Turn one byte round."""
    return content[:position] + bytes([content[position] ^ 0xFF]) + content[position + 1 :]


@pytest.mark.parametrize(
    "change", [lambda c: damage(c, len(c) // 2), lambda c: damage(c, len(c) - 1), lambda c: c[:-9]]
)
def test_a_damaged_chunk_is_an_error(tmp_path: Path, change: object) -> None:
    """A turned byte and a cut off file are found by the checksum."""
    store = write(tmp_path / "soft", FORM, [noise((6, 8), 0)])
    path = store.chunk_path(0, (6, 8))
    path.write_bytes(change(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(LabelError, match="damaged"):
        store.read(0, (6, 8))


def test_a_missing_chunk_is_an_error(tmp_path: Path) -> None:
    """No fill values are taken for an image."""
    store = write(tmp_path / "soft", FORM, [noise((6, 8), 0)])
    store.chunk_path(0, (6, 8)).unlink()
    with pytest.raises(LabelError, match="--keep"):
        store.read(0, (6, 8))


def test_a_foreign_folder_is_no_store(tmp_path: Path) -> None:
    """Nothing there is no store; other content is an error."""
    assert SoftStore.find(tmp_path) is None
    zarr.create_group(tmp_path / "other")
    with pytest.raises(ForeignSettingsError, match="no store of confidence"):
        SoftStore.find(tmp_path / "other")


def test_planes_of_another_form_are_refused() -> None:
    """What is encoded is what the store says that it holds."""
    with pytest.raises(LabelError, match="class, confidence"):
        FORM.encode(noise((6, 8), 0, planes=3))
    wrong: npt.NDArray[np.float32] = np.zeros((2, 6, 8), np.float32)
    with pytest.raises(LabelError, match="float32"):
        FORM.encode(wrong)  # type: ignore[arg-type]
