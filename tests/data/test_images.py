"""Images: decoded to the pixels they have, brought to one shape, refused by name where that cannot be."""

from __future__ import annotations

import io
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fednas_jax.data.images import Form, form_of, read_image, read_images, resized
from fednas_jax.errors import DataError


def pixels(height: int = 5, width: int = 4, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def encoded(array: np.ndarray, kind: str = "png", mode: str | None = None) -> bytes:
    """The array [H, W, C] as the content of a file."""
    image = Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)
    written = io.BytesIO()
    (image if mode is None else image.convert(mode)).save(written, kind)
    return written.getvalue()


@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3, 4]))
def test_a_lossless_image_is_read_pixel_by_pixel(height: int, width: int, channels: int) -> None:
    array = pixels(height, width, channels)
    form = form_of(encoded(array), "first", channels=channels)
    assert form == Form((height, width, channels), resize=False)
    np.testing.assert_array_equal(read_image(encoded(array), "one", form), array)


def test_the_first_image_decides_between_grey_and_colour_unless_it_is_said() -> None:
    assert form_of(encoded(pixels(channels=1)), "grey").shape == (5, 4, 1)
    assert form_of(encoded(pixels(), mode="P"), "palette").shape == (5, 4, 3)
    assert form_of(encoded(pixels(channels=4)), "transparent").shape == (5, 4, 3)
    assert form_of(encoded(pixels(channels=1)), "grey", channels=3).shape == (5, 4, 3)
    assert form_of(pixels(channels=2), "pixels").shape == (5, 4, 2)


def test_grey_images_become_colour_but_not_the_other_way_round() -> None:
    grey = pixels(channels=1)
    read = read_image(encoded(grey), "grey", Form((5, 4, 3), False))
    np.testing.assert_array_equal(read, np.repeat(grey, 3, axis=2))
    with pytest.raises(DataError, match=r"^blue: got a colour image \(RGB\), want grey as the first"):
        read_image(encoded(pixels()), "blue", Form((5, 4, 1), False))


def test_images_of_other_shapes_are_refused_by_name_or_resized() -> None:
    with pytest.raises(DataError, match=r"^wide: got an image of 5x6, want 5x4 as the first, or an image size"):
        read_image(pixels(5, 6), "wide", form_of(pixels(), "first"))
    with pytest.raises(DataError, match=r"^deep: got 4 channels, want 3, as the first image has"):
        read_image(pixels(channels=4), "deep", form_of(pixels(), "first"))
    form = form_of(pixels(), "first", size=7)
    assert read_image(encoded(pixels(5, 6)), "wide", form).shape == (7, 7, 3)


def test_resizing_keeps_what_is_even_and_averages_the_rest() -> None:
    even = np.full((6, 6, 2), 93, np.uint8)
    np.testing.assert_array_equal(resized(even, 3, 9), np.full((3, 9, 2), 93))
    stripes = np.zeros((64, 64, 1), np.uint8)
    stripes[:, ::2] = 200
    # Taking every eighth pixel would give 200 everywhere.
    assert abs(resized(stripes, 8, 8).astype(int) - 100).max() <= 5


def test_resizing_colour_equals_resizing_it_with_pillow() -> None:
    array = pixels(20, 30)
    whole = Image.fromarray(array).resize((9, 7), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(resized(array, 7, 9), np.asarray(whole))


@pytest.mark.parametrize(
    "content", [b"", b"no image", encoded(pixels(40, 40), "jpeg")[:200], encoded(pixels(40, 40))[:90]]
)
def test_a_corrupt_image_is_named_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "cat.png"
    path.write_bytes(content)
    for raw in (content, path):
        with pytest.raises(
            DataError, match=r"cat.png: got an image that cannot be decoded \(.*\), want a whole one"
        ) as error:
            form_of(raw, str(path))
        assert "\n" not in str(error.value)


def test_more_than_8_bits_are_refused_instead_of_cut_off() -> None:
    written = io.BytesIO()
    Image.fromarray(np.full((3, 3), 40_000, np.uint16)).save(written, "png")
    with pytest.raises(DataError, match=r"deep: got an image of mode I;16.*, want one of 8 bits"):
        form_of(written.getvalue(), "deep")
    with pytest.raises(DataError, match=r"floats: got \[3, 3, 1\] float64, want pixels"):
        form_of(np.zeros((3, 3, 1)), "floats")


def test_sizes_and_channels_that_cannot_be_are_refused() -> None:
    with pytest.raises(DataError, match="image size: got -1, want at least 0"):
        form_of(pixels(), "first", size=-1)
    with pytest.raises(DataError, match="channels: got 2, want 0"):
        form_of(encoded(pixels()), "first", channels=2)


def test_many_images_keep_their_order_on_several_threads() -> None:
    arrays = [pixels(seed=n) for n in range(30)]
    with ThreadPoolExecutor(4) as threads:
        read = read_images([encoded(a) for a in arrays], [str(n) for n in range(30)], Form((5, 4, 3), False), threads)
        np.testing.assert_array_equal(read, np.stack(arrays))
        with pytest.raises(DataError, match=r"^1: got an image of 2x2"):
            read_images([arrays[0], pixels(2, 2), pixels(3, 3)], ["0", "1", "2"], Form((5, 4, 3), False), threads)


def test_colours_of_a_palette_are_read_without_their_transparency_and_without_a_word() -> None:
    palette = Image.fromarray(pixels()).quantize(16)
    file = io.BytesIO()
    palette.save(file, "png", transparency=bytes(range(0, 256, 16)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = read_image(file.getvalue(), "a", form_of(file.getvalue(), "a"))
    np.testing.assert_array_equal(found, np.asarray(palette.convert("RGB")))
