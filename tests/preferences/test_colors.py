"""From every mode to 8-bit RGB by the written rules."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from components.preferences.bounds import MediaError
from components.preferences.colors import WHITE, is_plain, to_rgb
from components.preferences.media import read_picture


def png(color: int, depth: int, rows: list[bytes], width: int, *chunks: tuple[bytes, bytes]) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, len(rows), depth, color, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [(b"IHDR", header), *chunks, (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def saved(image: Image.Image, form: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def pixels(content: bytes, background: str = WHITE) -> list[list[int]]:
    return np.asarray(read_picture(content, background)).reshape(-1, 3).tolist()  # type: ignore[no-any-return]


def test_rgb_is_returned_without_a_copy() -> None:
    image = Image.new("RGB", (2, 2))
    assert to_rgb(image, WHITE) is image


@pytest.mark.parametrize(("mode", "value"), [("RGBA", (0, 0, 0, 0)), ("LA", (0, 0)), ("PA", None), ("RGBa", (0, 0, 0, 0)), ("La", (0, 0))])
def test_alpha_shows_background(mode: str, value: Any) -> None:
    if mode == "PA":
        image = Image.new("P", (1, 1))
        image.putalpha(0)
        assert image.mode == "PA"
    else:
        image = Image.new(mode, (1, 1), value)
    assert to_rgb(image, "#0a141e").getpixel((0, 0)) == (10, 20, 30)


def test_half_transparent_pixel_is_mixed() -> None:
    image = Image.new("RGBA", (1, 1), (200, 100, 0, 128))
    # 200 * 128/255 + 255 * 127/255 = 227.4; 100 and 0 accordingly
    assert np.abs(np.subtract(to_rgb(image, WHITE).getpixel((0, 0)), (227.4, 177.2, 127.0))).max() <= 1


@pytest.mark.parametrize("clear", [1, b"\xff\x00"], ids=["index", "bytes"])
def test_transparent_entry_of_palette_shows_background(clear: int | bytes) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 0])
    image.putdata([0, 1])
    assert pixels(saved(image, "PNG", transparency=clear)) == [[255, 0, 0], [255, 255, 255]]


def test_transparent_color_of_gray_and_rgb_shows_background() -> None:
    assert pixels(png(0, 8, [b"\x05\x06"], 2, (b"tRNS", struct.pack(">H", 5)))) == [[255] * 3, [6] * 3]
    assert pixels(png(2, 8, [b"\1\2\3\4\5\6"], 2, (b"tRNS", struct.pack(">3H", 1, 2, 3)))) == [[255] * 3, [4, 5, 6]]
    wide = png(2, 16, [struct.pack(">6H", 1000, 2000, 3000, 60000, 50000, 40000)], 2, (b"tRNS", struct.pack(">3H", 1000, 2000, 3000)))
    assert pixels(wide) == [[255] * 3, [234, 195, 156]]
    gray = png(0, 16, [struct.pack(">2H", 1000, 60000)], 2, (b"tRNS", struct.pack(">H", 1000)))
    assert pixels(gray) == [[255] * 3, [234] * 3]


def test_16_bits_are_scaled_as_16_bit_colors_are() -> None:
    values = [0, 255, 256, 8000, 50000, 65535]
    gray = png(0, 16, [struct.pack(">6H", *values)], 6)
    color = png(2, 16, [struct.pack(">18H", *(value for value in values for _ in range(3)))], 6)
    assert pixels(gray) == pixels(color) == [[value >> 8] * 3 for value in values]


@pytest.mark.parametrize("dtype", ["<u2", ">u2"])
def test_16_bit_tiff_is_scaled_in_either_byte_order(dtype: str) -> None:
    values = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64).astype(dtype)
    image = Image.frombytes("I;16" if dtype == "<u2" else "I;16B", (64, 64), values.tobytes())
    assert pixels(saved(image, "TIFF")) == [[value >> 8] * 3 for value in values.reshape(-1).tolist()]


def test_16_bit_ppm_is_scaled() -> None:
    assert pixels(b"P5 2 1 65535\n" + struct.pack(">2H", 8000, 50000)) == [[31] * 3, [195] * 3]
    assert pixels(b"P5 2 1 4095\n" + struct.pack(">2H", 0, 4095)) == [[0] * 3, [255] * 3]


def test_deep_image_of_several_strips_is_whole() -> None:
    values = (np.arange(1500 * 1500, dtype=np.uint32) % 65536).astype(np.uint16).reshape(1500, 1500)
    assert (np.asarray(to_rgb(Image.fromarray(values), WHITE)) == (values >> 8)[..., None]).all()


def test_floats_run_from_0_to_1() -> None:
    image = Image.fromarray(np.array([[0, 0.1, 0.5, 1]], dtype=np.float32))
    assert pixels(saved(image, "TIFF")) == [[0] * 3, [26] * 3, [128] * 3, [255] * 3]


@pytest.mark.parametrize("value", [-0.1, 1.5, 200.0, float("nan"), float("inf")])
def test_floats_outside_are_refused(value: float) -> None:
    with pytest.raises(MediaError, match="outside 0"):
        pixels(saved(Image.fromarray(np.array([[0.5, value]], dtype=np.float32)), "TIFF"))


def test_32_bit_integers_are_refused() -> None:
    with pytest.raises(MediaError, match="8 or 16 bits"):
        pixels(saved(Image.fromarray(np.array([[1, 70000]], dtype=np.int32)), "TIFF"))


def test_lab_is_converted() -> None:
    assert pixels(saved(Image.new("LAB", (1, 1), (128, 128, 128)), "TIFF")) == [[119] * 3]


def wide_gamut() -> bytes:
    """A matrix profile whose red and green are swapped against sRGB's, so that its effect is known."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = struct.unpack(">I", profile[128:132])[0]
    entries = {bytes(profile[at : at + 4]): at for at in range(132, 132 + 12 * count, 12)}
    red, green = entries[b"rXYZ"], entries[b"gXYZ"]
    profile[red + 4 : red + 12], profile[green + 4 : green + 12] = profile[green + 4 : green + 12], profile[red + 4 : red + 12]
    return bytes(profile)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_profile_of_other_colors_is_applied(form: str) -> None:
    content = saved(Image.new("RGB", (16, 16), (255, 0, 0)), form, icc_profile=wide_gamut())
    assert np.abs(np.subtract(pixels(content)[0], (0, 255, 0))).max() <= 3


def test_profile_is_applied_below_alpha() -> None:
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    image.putpixel((1, 0), (255, 0, 0, 0))
    assert np.abs(np.subtract(pixels(saved(image, "PNG", icc_profile=wide_gamut())), [[0, 255, 0], [255] * 3])).max() <= 2


def test_srgb_profile_changes_no_pixel() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    values = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    content = saved(Image.fromarray(values), "PNG", icc_profile=profile)
    assert pixels(content) == values.reshape(-1, 3).tolist()


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_profile_that_does_not_fit_is_ignored(mode: str) -> None:
    image = Image.new(mode, (2, 2), 100 if mode == "L" else (100, 50, 20))
    for profile in (b"damaged", ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()):
        assert pixels(saved(image, "PNG", icc_profile=profile)) == pixels(saved(image, "PNG"))


def test_cmyk_without_profile_is_the_complement() -> None:
    content = saved(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "TIFF")
    assert pixels(content)[0] == [255, 0, 0]


def test_plain_is_what_no_rule_changes() -> None:
    image = Image.new("RGB", (2, 2))
    assert is_plain(image)
    image.info["icc_profile"] = wide_gamut()
    assert not is_plain(image)
    assert not is_plain(Image.new("RGBA", (2, 2)))
