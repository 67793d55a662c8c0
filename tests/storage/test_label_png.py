"""Label PNGs: exact to every reader, strict to read, independent of the clock."""

import io
import itertools
import struct
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from PIL import Image

from storage.errors import LabelError, SettingsError
from storage.label_map import LabelMap
from storage.label_png import (
    LabelFormat,
    Preset,
    encode_label_png,
    read_label_png,
    read_label_values,
    read_provenance,
)
from storage.schema import IGNORE, ClassSchema, Ids, load_schema

CITYSCAPES = load_schema("cityscapes")
PRESETS: tuple[Preset, ...] = get_args(Preset)
FORMS = [LabelFormat(*v) for v in itertools.product(PRESETS, (False, True), get_args(Ids))]

label_values = st_numpy.arrays(
    np.uint8,
    st_numpy.array_shapes(min_dims=2, max_dims=2, max_side=20),
    elements=st.sampled_from([0, 1, 2, IGNORE]),
)


@given(label_values)
def test_what_is_written_is_read_back(values: npt.NDArray[np.uint8]) -> None:
    """Any label map survives the round trip through a PNG, read by Pillow itself."""
    image = Image.open(io.BytesIO(encode_label_png(LabelMap(values, 3), {"threshold": 0.5})))
    assert image.mode == "L"
    np.testing.assert_array_equal(np.asarray(image), values)


@given(
    st_numpy.arrays(
        np.uint8,
        st_numpy.array_shapes(min_dims=2, max_dims=2, max_side=20),
        elements=st.sampled_from([0, 1, 11, 18, IGNORE]),
    ),
    st.sampled_from(FORMS),
)
def test_every_form_is_read_back(values: npt.NDArray[np.uint8], form: LabelFormat) -> None:
    """Whatever the preset, palette and ids, Pillow reads 8-bit values that mean the same classes."""
    content = encode_label_png(LabelMap(values, 19), {"threshold": 0.5}, form, CITYSCAPES)
    image = Image.open(io.BytesIO(content))
    assert image.mode == ("P" if form.palette else "L")
    assert content[24] == 8  # bits
    assert content[28] == 0  # not interlaced
    np.testing.assert_array_equal(CITYSCAPES.to_indices(np.asarray(image), form.ids), values)


def teacher_like(rng: np.random.Generator, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """A label map of 19 classes with smooth borders along which some pixels are ignored."""
    height, width = size
    coarse = rng.standard_normal((19, height // 60, width // 60)).astype(np.float32)
    ragged = rng.standard_normal((19, height // 8, width // 8)).astype(np.float32)
    scores = np.stack(
        [
            np.asarray(Image.fromarray(c).resize((width, height), Image.Resampling.BILINEAR))
            + 0.1 * np.asarray(Image.fromarray(r).resize((width, height), Image.Resampling.BILINEAR))
            for c, r in zip(coarse, ragged, strict=True)
        ]
    )
    second, first = np.sort(scores, axis=0)[-2:]
    return np.where(first - second > 0.05, scores.argmax(0), IGNORE).astype(np.uint8)


@pytest.mark.parametrize("size", [(240, 360), (600, 900)])
def test_each_preset_is_as_small_as_the_one_before_it(rng: np.random.Generator, size: tuple[int, int]) -> None:
    """On a map like a teacher's, small is smaller than fast, and smallest smaller than small; all hold the map."""
    values = teacher_like(rng, size)
    contents = [encode_label_png(LabelMap(values, 19), form=LabelFormat(preset)) for preset in PRESETS]
    for content in contents:
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(content))), values)
    fast, small, smallest = map(len, contents)
    assert smallest < small < fast


@given(label_values)
def test_no_preset_is_larger_than_the_one_before_it(values: npt.NDArray[np.uint8]) -> None:
    """Whatever the map, asking for fewer bytes never gives more."""
    fast, small, smallest = (len(encode_label_png(LabelMap(values, 3), form=LabelFormat(p))) for p in PRESETS)
    assert smallest <= small <= fast


@pytest.mark.parametrize("shape", [(1, 600_000), (600_000, 1)])
def test_maps_of_one_row_or_column_are_written(rng: np.random.Generator, shape: tuple[int, int]) -> None:
    """A map too flat to sample is written like any other."""
    values = (rng.random(shape) < 0.01).astype(np.uint8)
    content = encode_label_png(LabelMap(values, 3), form=LabelFormat("small"))
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(content))), values)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_bytes_are_the_same_from_every_thread(rng: np.random.Generator, preset: Preset) -> None:
    """Labels that are encoded at the same time have the bytes that they have alone."""
    labels = [LabelMap(teacher_like(rng, (120, 180)), 19) for _ in range(4)]
    alone = [encode_label_png(label, None, LabelFormat(preset)) for label in labels]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            assert list(pool.map(lambda label: encode_label_png(label, None, LabelFormat(preset)), labels)) == alone


def _pillow(path: Path) -> npt.NDArray[Any]:
    with Image.open(path) as image:
        return np.asarray(image)


def _opencv(path: Path) -> npt.NDArray[Any]:
    cv2 = pytest.importorskip("cv2")
    return np.asarray(cv2.imread(str(path), cv2.IMREAD_UNCHANGED))


def _torchvision(path: Path) -> npt.NDArray[Any]:
    io_module = pytest.importorskip("torchvision.io")
    pixels = np.asarray(io_module.decode_image(str(path), io_module.ImageReadMode.UNCHANGED))
    assert pixels.shape[0] == 1
    return pixels[0]


def _imageio(path: Path) -> npt.NDArray[Any]:
    return np.asarray(pytest.importorskip("imageio.v3").imread(path))


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torchvision")
@pytest.mark.parametrize("read", [_pillow, _opencv, _torchvision, _imageio])
@pytest.mark.parametrize("preset", PRESETS)
def test_gray_labels_are_the_same_to_every_reader(
    tmp_path: Path, rng: np.random.Generator, read: Callable[[Path], npt.NDArray[Any]], preset: Preset
) -> None:
    """Pillow, OpenCV, torchvision and imageio read the class indices, or the source ids where those are written."""
    values = teacher_like(rng, (120, 182))
    for ids, expected in (("class", values), ("source", CITYSCAPES.index_to_source[values])):
        form = LabelFormat(preset, ids=ids)
        (tmp_path / "a.png").write_bytes(encode_label_png(LabelMap(values, 19), {"a": "b"}, form, CITYSCAPES))
        got = read(tmp_path / "a.png")
        assert got.dtype == np.uint8
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("ids", get_args(Ids))
def test_a_palette_label_keeps_its_values_and_shows_the_class_colours(
    tmp_path: Path, rng: np.random.Generator, ids: Ids
) -> None:
    """Pillow reads the indices of a palette label, and its colours are those of the classes, black for ignore."""
    values = teacher_like(rng, (120, 180))
    form = LabelFormat("small", palette=True, ids=ids)
    (tmp_path / "p.png").write_bytes(encode_label_png(LabelMap(values, 19), None, form, CITYSCAPES))
    with Image.open(tmp_path / "p.png") as image:
        expected = CITYSCAPES.index_to_source[values] if ids == "source" else values
        np.testing.assert_array_equal(np.asarray(image), expected)
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), CITYSCAPES.palette[values])
    np.testing.assert_array_equal(read_label_png(tmp_path / "p.png", CITYSCAPES, ids).values, values)


def test_ignore_is_written_as_a_source_id_that_is_known(tmp_path: Path, schema: ClassSchema) -> None:
    """Written as source ids and read again, classes are the same and no pixel is of an unknown id."""
    values = np.array([[0, 1], [2, IGNORE]], np.uint8)
    content = encode_label_png(LabelMap(values, 3), None, LabelFormat(ids="source"), schema)
    (tmp_path / "s.png").write_bytes(content)
    assert read_label_values(tmp_path / "s.png").tolist() == [[7, 17], [23, 0]]
    label = read_label_png(tmp_path / "s.png", schema, "source")
    assert label.values.tolist() == values.tolist()
    assert label.unknown == 0


def test_a_form_that_needs_the_schema_says_so(schema: ClassSchema) -> None:
    """Source ids and colours need the schema of the label, no other; a preset must be one of the three."""
    label = LabelMap(np.zeros((2, 2), np.uint8), 3)
    with pytest.raises(LabelError, match=r"source ids .* pass schema"):
        encode_label_png(label, form=LabelFormat(ids="source"))
    with pytest.raises(LabelError, match=r"class colours .* pass schema"):
        encode_label_png(label, form=LabelFormat(palette=True))
    with pytest.raises(LabelError, match="3 classes, expected the 19 of class schema 'cityscapes'"):
        encode_label_png(label, None, LabelFormat(palette=True), CITYSCAPES)
    assert encode_label_png(label, None, LabelFormat(), schema) == encode_label_png(label)
    with pytest.raises(SettingsError, match="fast, small, smallest"):
        LabelFormat("tiny")  # type: ignore[arg-type] # that is the point


def test_a_label_of_another_size_is_refused(tmp_path: Path, schema: ClassSchema) -> None:
    """Where a size is expected, a label of another is an error that names file and both sizes."""
    (tmp_path / "w.png").write_bytes(encode_label_png(LabelMap(np.zeros((2, 3), np.uint8), 3)))
    assert read_label_png(tmp_path / "w.png", schema, size=(2, 3)).values.shape == (2, 3)
    with pytest.raises(LabelError, match=r"w\.png: is 3x2, expected 2x3"):
        read_label_png(tmp_path / "w.png", schema, size=(3, 2))


def test_equal_labels_give_equal_bytes_and_provenance_is_read_back(tmp_path: Path) -> None:
    """The bytes depend on label and provenance alone."""
    label = LabelMap(np.arange(6, dtype=np.uint8).reshape(2, 3) % 3, 3)
    provenance: dict[str, str | float] = {"settings": "abc", "threshold": 0.5, "note": "é"}
    first = encode_label_png(label, provenance)
    assert first == encode_label_png(label, dict(reversed(provenance.items())))
    (tmp_path / "a.png").write_bytes(first)
    assert read_provenance(tmp_path / "a.png") == provenance


def test_provenance_of_other_files_is_empty_and_of_torn_ones_an_error(tmp_path: Path, rng: np.random.Generator) -> None:
    """A PNG of any kind says nothing; what is no whole PNG is a label error; a missing file stays one."""
    Image.new("RGB", (9, 9)).save(tmp_path / "rgb.png")
    assert read_provenance(tmp_path / "rgb.png") == {}
    noise = rng.integers(0, 2, (40, 40), np.uint8)
    whole = encode_label_png(LabelMap(noise, 2), {"settings": "abc"})
    for content in (b"", b"no image", whole[:40], whole[:-200]):
        (tmp_path / "torn.png").write_bytes(content)
        with pytest.raises(LabelError, match=r"torn\.png"):
            read_provenance(tmp_path / "torn.png")
    with pytest.raises(FileNotFoundError):
        read_provenance(tmp_path / "gone.png")


def test_large_provenance_is_refused() -> None:
    """A label stays small: text that would outgrow it is an error."""
    with pytest.raises(LabelError, match="at most 4096"):
        encode_label_png(LabelMap(np.zeros((1, 1), np.uint8), 1), {"x": "y" * 5000})


def test_a_palette_label_is_read_as_its_indices(tmp_path: Path, schema: ClassSchema) -> None:
    """Palette files, as CamVid and VOC come, hold class indices whatever the colours are."""
    image = Image.fromarray(np.array([[0, 1], [2, 255]], np.uint8), mode="P")
    image.putpalette([9, 8, 7] * 256)
    image.save(tmp_path / "p.png")
    assert read_label_png(tmp_path / "p.png", schema).values.tolist() == [[0, 1], [2, 255]]


def test_source_ids_are_mapped(tmp_path: Path, schema: ClassSchema) -> None:
    """With ids=source, known ids become indices and all others ignore."""
    Image.fromarray(np.array([[7, 17], [23, 4]], np.uint8)).save(tmp_path / "s.png")
    assert read_label_png(tmp_path / "s.png", schema, "source").values.tolist() == [[0, 1], [2, 255]]


def test_source_ids_that_the_schema_does_not_know_are_counted(tmp_path: Path, schema: ClassSchema) -> None:
    """Unknown ids become ignore and are counted; 255, classes and ids that are ignored on purpose are known."""
    Image.fromarray(np.array([[7, 4, 4], [1, 255, 254]], np.uint8)).save(tmp_path / "s.png")
    label = read_label_png(tmp_path / "s.png", schema, "source")
    assert label.values.tolist() == [[0, 255, 255], [255, 255, 255]]
    assert label.unknown == 3
    Image.fromarray(np.array([[0, 255]], np.uint8)).save(tmp_path / "c.png")
    assert read_label_png(tmp_path / "c.png", schema).unknown == 0


def test_an_illegal_value_names_the_file(tmp_path: Path, schema: ClassSchema) -> None:
    """A class-index label with value 33 is an error that names file and value."""
    Image.fromarray(np.array([[0, 33]], np.uint8)).save(tmp_path / "bad.png")
    with pytest.raises(LabelError, match=r"bad\.png: value 33"):
        read_label_png(tmp_path / "bad.png", schema)


def test_a_colour_label_is_refused(tmp_path: Path) -> None:
    """An RGB picture of the classes is no label."""
    Image.new("RGB", (2, 2)).save(tmp_path / "rgb.png")
    with pytest.raises(LabelError, match="class colours"):
        read_label_values(tmp_path / "rgb.png")


def _gray_png(depth: int, width: int = 8, height: int = 1) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    pixels = zlib.compress(b"\0" + bytes(max(1, width * depth // 8)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize("depth", [1, 2, 4, 16])
def test_gray_of_another_depth_is_refused(tmp_path: Path, depth: int) -> None:
    """Readers stretch gray values of less than 8 bits to 0..255, which would change classes."""
    (tmp_path / "d.png").write_bytes(_gray_png(depth))
    with pytest.raises(LabelError, match=f"{depth} bits"):
        read_label_values(tmp_path / "d.png")


def test_a_huge_header_is_refused_before_decoding(tmp_path: Path) -> None:
    """A header of 20,000 x 20,000 pixels costs nothing but its reading."""
    (tmp_path / "huge.png").write_bytes(_gray_png(8, 20_000, 20_000)[:60])
    with pytest.raises(LabelError, match="20000x20000"):
        read_label_values(tmp_path / "huge.png")


@pytest.mark.parametrize(
    "content", [b"", b"hello, no image", encode_label_png(LabelMap(np.zeros((9, 9), np.uint8), 1))[:50]]
)
def test_a_damaged_label_is_one_kind_of_error(tmp_path: Path, content: bytes) -> None:
    """Empty, foreign and truncated files are label errors with the file's name."""
    (tmp_path / "x.png").write_bytes(content)
    with pytest.raises(LabelError, match=r"x\.png"):
        read_label_values(tmp_path / "x.png")


def test_a_label_map_refuses_what_is_no_label() -> None:
    """Wrong type, wrong shape and values beyond the classes are refused at construction."""
    for values in (np.zeros((2, 2), np.int64), np.zeros((2, 2, 1), np.uint8), np.zeros((0, 2), np.uint8)):
        with pytest.raises(LabelError, match="uint8"):
            LabelMap(values, 3)  # type: ignore[arg-type] # that is the point
    with pytest.raises(LabelError, match="holds value 3, 254"):
        LabelMap(np.array([[3, 254, 255, 0]], np.uint8), 3)
