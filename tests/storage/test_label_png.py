"""Label PNGs: exact to every reader, strict to read, independent of the clock."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from PIL import Image

from storage.errors import LabelError
from storage.label_map import LabelMap
from storage.label_png import encode_label_png, read_label_png, read_label_values, read_provenance
from storage.schema import IGNORE, ClassSchema

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
