"""The index of samples: what it counts, where it says a class is, and when it is used again."""

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from pipeline.sample_index import IndexProgress, SampleIndex, build_index, find_places
from pipeline.samples import Sample
from storage.errors import LabelError, MissingFileError, SettingsError
from storage.layouts import LabelFile
from storage.ledger import Entry, Ledger
from storage.object_io import file_digest
from storage.schema import ClassSchema
from storage.workspace import Workspace

MakeSamples = Callable[..., list[Sample]]

LABELS = ([[0, 0, 255]], [[2, 255, 255]], [[0, 2, 2]])


def index_of(samples: Sequence[Sample], schema: ClassSchema, cache: Path | None = None) -> SampleIndex:
    """The index of samples, in tiles of two pixels."""
    *_, last = build_index(samples, schema, tile=(2, 2), cache=cache)
    assert last.index is not None
    return last.index


@pytest.fixture
def blind(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From the call on, no label can be read."""

    def refuse(path: Path, *_: object) -> None:
        raise AssertionError(f"{path} was read")

    return lambda: monkeypatch.setattr("pipeline.sample_index.read_label_png", refuse)


def test_index_counts_classes_and_reports_progress(make_samples: MakeSamples, schema: ClassSchema) -> None:
    """The index holds the pixels of each class in each sample, and the hash of its image."""
    steps = list(build_index(make_samples(LABELS), schema, tile=(2, 2), cache=None, workers=2))
    assert [(s.done, s.total, s.cached) for s in steps] == [(n, 3, False) for n in (1, 2, 3, 3)]
    index = steps[-1].index
    assert index is not None
    assert index.counts.tolist() == [[2, 0, 0], [0, 0, 1], [1, 0, 2]]
    assert index.image_digests == tuple(file_digest(sample.image) for sample in index.samples)


def test_places_name_sample_class_and_pixels(make_samples: MakeSamples, schema: ClassSchema) -> None:
    """Each class of each tile has a place; what is left beside whole tiles is a tile too."""
    places = index_of(make_samples(LABELS), schema).places
    assert places.tolist() == [(0, 0, 0, 0, 2), (1, 2, 0, 0, 1), (2, 0, 0, 0, 1), (2, 2, 0, 1, 1), (2, 2, 0, 2, 1)]


@settings(deadline=None)
@given(
    values=arrays.arrays(
        np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.sampled_from([0, 1, 255])
    ),
    tile=st.tuples(st.integers(1, 15), st.integers(1, 15)),
)
def test_places_lie_on_their_class_nearest_to_the_middle(values: np.ndarray, tile: tuple[int, int]) -> None:
    """A place is a pixel of its class, in its tile, nearest to the centroid; all pixels are counted once."""
    places = find_places(values, [0, 1], tile)
    for _, wanted, row, column, pixels in places.tolist():
        top, left = row // tile[0] * tile[0], column // tile[1] * tile[1]
        inside = np.zeros(values.shape, bool)
        inside[top : top + tile[0], left : left + tile[1]] = True
        found = np.argwhere(inside & (values == wanted))
        distances = ((found - found.mean(axis=0)) ** 2).sum(axis=1)
        own = ((np.array([row, column]) - found.mean(axis=0)) ** 2).sum()
        assert values[row, column] == wanted
        assert pixels == len(found)
        assert own == pytest.approx(distances.min())
    for wanted in (0, 1):
        assert places["pixels"][places["class_index"] == wanted].sum() == np.count_nonzero(values == wanted)
    keys = {(p["class_index"], p["row"] // tile[0], p["column"] // tile[1]) for p in places}
    assert len(keys) == len(places), "one place a class and tile"


def test_place_of_a_ring_is_on_the_ring() -> None:
    """The centroid of a ring lies on another class; its place does not."""
    rows, columns = np.mgrid[:41, :41] - 20
    values = (np.abs(np.hypot(rows, columns) - 15) < 2).astype(np.uint8)
    ((_, _, row, column, _),) = find_places(values, [1], (41, 41)).tolist()
    assert values[20, 20] == 0
    assert values[row, column] == 1


def test_labels_of_source_ids_are_indexed_as_they_are_trained_on(tmp_path: Path, schema: ClassSchema) -> None:
    """Source ids are turned into class indices before anything is counted."""
    Image.fromarray(np.array([[7, 17, 18, 0]], np.uint8)).save(tmp_path / "label.png")
    Image.fromarray(np.zeros((1, 4, 3), np.uint8)).save(tmp_path / "image.png")
    index = index_of([Sample("a", tmp_path / "image.png", LabelFile(tmp_path / "label.png", "source"), "fine")], schema)
    assert index.counts.tolist() == [[1, 2, 0]]


def test_digest_follows_labels_kinds_and_images(make_samples: MakeSamples, schema: ClassSchema) -> None:
    """The digest is the same for the same files, and another when one pixel, one kind or one image is another."""
    samples = make_samples(LABELS)
    digests = [index_of(samples, schema).digest, index_of(make_samples(LABELS), schema).digest]
    assert digests[0] == digests[1]
    digests.append(index_of(make_samples(LABELS, "auto"), schema).digest)
    Image.fromarray(np.array([[0, 0, 0]], np.uint8)).save(samples[0].label.path)
    digests.append(index_of(samples, schema).digest)
    samples[0].image.write_bytes(samples[1].image.read_bytes())
    digests.append(index_of(samples, schema).digest)
    assert len(set(digests)) == 4


def test_cached_index_is_the_same_and_reads_no_label(
    make_samples: MakeSamples, schema: ClassSchema, tmp_path: Path, blind: Callable[[], None]
) -> None:
    """Where nothing has changed the index comes from its file, and no label is opened."""
    samples, cache = make_samples(LABELS), tmp_path / "out/index.npz"
    built = index_of(samples, schema, cache)
    blind()
    (only,) = build_index(samples, schema, tile=(2, 2), cache=cache)
    assert isinstance(only, IndexProgress)
    assert (only.done, only.total, only.cached) == (3, 3, True)
    assert only.index is not None
    assert only.index.samples == built.samples
    assert only.index.counts.tolist() == built.counts.tolist()
    assert only.index.places.tolist() == built.places.tolist()
    assert (only.index.digest, only.index.image_digests) == (built.digest, built.image_digests)


def test_cache_is_not_used_for_anything_else(make_samples: MakeSamples, schema: ClassSchema, tmp_path: Path) -> None:
    """Another kind, order, tile or class schema, and a changed label or image, each make a new index."""
    samples, cache = make_samples(LABELS), tmp_path / "index.npz"
    other_ids = ClassSchema(schema.name, schema.classes, frozenset())

    def cached(samples: Sequence[Sample], schema: ClassSchema = schema, tile: tuple[int, int] = (2, 2)) -> bool:
        *_, last = build_index(samples, schema, tile=tile, cache=cache)
        return last.cached

    assert not cached(samples)
    assert cached(samples)
    assert not cached(samples[::-1])
    assert not cached(make_samples(LABELS, "coarse"))
    assert not cached(samples, tile=(2, 3))
    assert not cached(samples, schema=other_ids)
    assert not cached(samples)
    for path in (samples[1].label.path, samples[1].image):
        found = path.stat()
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns + 1))
        assert not cached(samples)
        assert cached(samples)


@pytest.mark.parametrize("cut", [0, 1, 100, -1])
def test_damaged_cache_is_made_anew(make_samples: MakeSamples, schema: ClassSchema, tmp_path: Path, cut: int) -> None:
    """A cache that was cut off, wherever, is no error: the labels are read again and it is replaced."""
    samples, cache = make_samples(LABELS), tmp_path / "index.npz"
    built = index_of(samples, schema, cache)
    whole = cache.read_bytes()
    cache.write_bytes(whole[:cut])
    assert index_of(samples, schema, cache).digest == built.digest
    *_, last = build_index(samples, schema, tile=(2, 2), cache=cache)
    assert last.cached


@settings(deadline=None, max_examples=60)
@given(position=st.floats(0, 1, exclude_max=True), change=st.integers(1, 255))
def test_changed_byte_in_the_cache_never_changes_the_index(
    tmp_path_factory: pytest.TempPathFactory, position: float, change: int
) -> None:
    """Whatever byte of the cache is another, the index is right."""
    schema = ClassSchema.from_dict({"classes": [{"name": "road"}, {"name": "pole"}, {"name": "sky"}]}, "three")
    folder = tmp_path_factory.mktemp("cache")
    Image.fromarray(np.array([[0, 2]], np.uint8)).save(folder / "label.png")
    Image.fromarray(np.zeros((1, 2, 3), np.uint8)).save(folder / "image.png")
    samples = [Sample("a", folder / "image.png", LabelFile(folder / "label.png", "class"), "fine")]
    built = index_of(samples, schema, folder / "index.npz")
    content = bytearray((folder / "index.npz").read_bytes())
    content[int(position * len(content))] ^= change
    (folder / "index.npz").write_bytes(content)
    again = index_of(samples, schema, folder / "index.npz")
    assert again.counts.tolist() == built.counts.tolist()
    assert again.places.tolist() == built.places.tolist()
    assert (again.digest, again.image_digests) == (built.digest, built.image_digests)


def make_run(root: Path, samples: Sequence[Sample], image_sha256: str) -> list[Sample]:
    """Turn label folder samples into those of a run whose ledger holds this hash for every image."""
    run = Workspace(root)
    run.prepare()
    result = []
    with Ledger(run.ledger) as ledger:
        for sample in samples:
            label = run.label_path(f"town/{sample.key}")
            run.publish(label, sample.label.path.read_bytes())
            written, image = label.stat(), sample.image.stat()
            entry = Entry(
                key=f"town/{sample.key}",
                status="done",
                settings_digest="",
                image_bytes=image.st_size,
                image_modified_ns=image.st_mtime_ns,
                image_sha256=image_sha256,
                bytes=written.st_size,
                modified_ns=written.st_mtime_ns,
                sha256=file_digest(label),
            )
            ledger.commit([entry])
            result.append(Sample(entry.key, sample.image, LabelFile(label, "class"), "auto"))
    return result


def test_image_of_a_run_is_not_hashed_again(make_samples: MakeSamples, schema: ClassSchema, tmp_path: Path) -> None:
    """The ledger's hash of an image is believed as long as size and time agree, and the image is read otherwise."""
    recorded = hashlib.sha256(b"recorded").hexdigest()
    samples = make_run(tmp_path / "run", make_samples(LABELS), recorded)
    os.utime(samples[1].image, ns=(0, 0))
    digests = index_of(samples, schema).image_digests
    assert digests == (recorded, file_digest(samples[1].image), recorded)


def test_run_that_was_labelled_again_with_the_same_result_is_cached(
    make_samples: MakeSamples, schema: ClassSchema, tmp_path: Path, blind: Callable[[], None]
) -> None:
    """A run's labels go by the ledger's hash: other times of the same labels do not matter, where the ledger knows."""
    plain = make_samples(LABELS)
    first = index_of(make_run(tmp_path / "one", plain, "a" * 64), schema, tmp_path / "index.npz")
    blind()
    second = index_of(make_run(tmp_path / "two", plain, "a" * 64), schema, tmp_path / "index.npz")
    assert first.digest == second.digest


def test_illegal_value_stops_before_training(make_samples: MakeSamples, schema: ClassSchema, tmp_path: Path) -> None:
    """A label with a value that is no class index is named before the first step, and nothing is cached."""
    samples = make_samples([np.zeros((8, 6)), np.full((8, 6), 33), *[np.zeros((8, 6))] * 40])
    with pytest.raises(LabelError, match=r"fine1\.png: value 33 is no class index of 'three'.*--ids source"):
        index_of(samples, schema, tmp_path / "index.npz")
    assert not (tmp_path / "index.npz").exists()


def test_size_mismatch_names_both_files(make_samples: MakeSamples, schema: ClassSchema) -> None:
    """A label of another size than its image is named with its image and both sizes, before training."""
    (sample,) = make_samples([np.zeros((8, 6))])
    Image.fromarray(np.zeros((8, 7, 3), np.uint8)).save(sample.image)
    with pytest.raises(LabelError, match=r"fine0\.png is 6x8 but its image .*fine0\.png is 7x8"):
        index_of([sample], schema)


def test_labels_without_a_single_class_are_refused(make_samples: MakeSamples, schema: ClassSchema) -> None:
    """Where everything is ignored there is nothing to learn, and that is said."""
    with pytest.raises(LabelError, match="nothing to learn from"):
        index_of(make_samples([np.full((8, 6), 255)]), schema)


def test_missing_label_is_named(make_samples: MakeSamples, schema: ClassSchema) -> None:
    """A label that has vanished since it was listed is named."""
    samples = make_samples(LABELS)
    samples[1].label.path.unlink()
    with pytest.raises(MissingFileError, match=r"fine1\.png: No such file"):
        index_of(samples, schema)


def test_tile_without_pixels_is_refused(make_samples: MakeSamples, schema: ClassSchema) -> None:
    """A tile must have an area."""
    with pytest.raises(SettingsError, match="tile is 4x0"):
        list(build_index(make_samples(LABELS), schema, tile=(0, 4), cache=None))


def test_reading_can_be_left_off(make_samples: MakeSamples, schema: ClassSchema) -> None:
    """Who stops listening to the progress stops the reading."""
    progress = build_index(make_samples([np.zeros((8, 6))] * 60), schema, tile=(8, 6), cache=None, workers=2)
    assert next(progress).done == 1
    progress.close()  # type: ignore[attr-defined] # it is a generator
    assert not list(progress)
