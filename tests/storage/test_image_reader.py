"""Reading photographs: every kind of file that is none is one clear error."""

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from storage.errors import ImageError
from storage.image_reader import read_image, read_image_size, read_reduced, reduced_size


def test_any_eight_bit_mode_becomes_rgb(tmp_path: Path) -> None:
    """Gray, palette and transparent images are read as red, green, blue of the same size."""
    for mode in ("L", "P", "RGBA", "LA", "1"):
        Image.new(mode, (5, 3)).save(tmp_path / "a.png")
        assert read_image(tmp_path / "a.png").shape == (3, 5, 3)


def test_the_size_is_read_as_height_width(tmp_path: Path) -> None:
    """Sizes are (height, width) in code."""
    Image.new("RGB", (5, 3)).save(tmp_path / "a.jpg")
    assert read_image_size(tmp_path / "a.jpg") == (3, 5)


def test_a_truncated_jpeg_is_an_error(tmp_path: Path, rng: np.random.Generator) -> None:
    """A file cut off in the middle is never read as half an image."""
    path = tmp_path / "cut.jpg"
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ImageError, match=r"cut\.jpg.*damaged or cut off"):
        read_image(path)


def test_text_named_png_is_an_error(tmp_path: Path) -> None:
    """The content counts, not the name."""
    (tmp_path / "a.png").write_text("not an image")
    with pytest.raises(ImageError, match=r"a\.png: cannot be read as an image"):
        read_image(tmp_path / "a.png")


def test_an_empty_file_is_said_to_be_empty(tmp_path: Path) -> None:
    """A file without a byte, as an interrupted copy leaves it, is not called one of an unknown format."""
    (tmp_path / "a.jpg").touch()
    for read in (read_image, read_image_size):
        with pytest.raises(ImageError, match=r"a\.jpg: cannot be read as an image: the file is empty"):
            read(tmp_path / "a.jpg")


def test_sixteen_bits_a_channel_are_refused(tmp_path: Path) -> None:
    """Sixteen-bit pixels would be clipped silently; they are refused instead."""
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ImageError, match="8 bits"):
        read_image(tmp_path / "deep.png")


def test_a_missing_image_is_an_image_error(tmp_path: Path) -> None:
    """A file that went away is one failed item, not the end of a run."""
    with pytest.raises(ImageError, match=r"gone\.png"):
        read_image(tmp_path / "gone.png")


@pytest.mark.parametrize(("width", "height"), [(13_000, 14_000), (20_000, 20_000)])
def test_an_image_that_claims_too_many_pixels_is_refused_before_decoding(
    tmp_path: Path, width: int, height: int
) -> None:
    """The header alone decides; nothing of such a file is decoded."""
    header = b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    (tmp_path / "huge.bmp").write_bytes(header)
    with pytest.raises(ImageError, match=r"huge\.bmp.*pixels.*cut it into pieces"):
        read_image(tmp_path / "huge.bmp")


@pytest.mark.parametrize(("name", "size"), [("a.jpg", (900, 1600)), ("a.png", (90, 160)), ("small.png", (20, 30))])
def test_an_image_made_smaller_keeps_its_shape_and_look(tmp_path: Path, name: str, size: tuple[int, int]) -> None:
    """The longer side is as asked for, never larger than the image; colours stay where they are."""
    pixels = np.zeros((*size, 3), np.uint8)
    pixels[:, : size[1] // 2, 0] = 200
    pixels[size[0] // 2 :, :, 2] = 100
    Image.fromarray(pixels).save(tmp_path / name)
    small, whole = read_reduced(tmp_path / name, 48)
    assert whole == size
    assert small.shape[:2] == reduced_size(size, 48)
    assert max(small.shape) == min(48, *[max(size)])
    corners = small[[0, 0, -1, -1], [0, -1, 0, -1]].astype(int)
    assert np.abs(corners - [[200, 0, 0], [0, 0, 0], [200, 0, 100], [0, 0, 100]]).max() <= 12


def test_an_image_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    """One of 16 bits a channel, and one that claims to be huge."""
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ImageError, match="8 bits"):
        read_reduced(tmp_path / "deep.png", 320)
    content = bytearray((tmp_path / "deep.png").read_bytes())
    content[16:24] = (60_000).to_bytes(4, "big") * 2
    (tmp_path / "huge.png").write_bytes(content)
    with pytest.raises(ImageError):
        read_reduced(tmp_path / "huge.png", 320)
