import io
from typing import Any

import pytest
from PIL import Image

from components.preferences.media_kinds import describe, describe_fault, webp_pixels

HEADS = {
    b"": "empty",
    b"<!DOCTYPE html><html><body>404 Not Found</body></html>": "HTML",
    b"\xef\xbb\xbf\n  <html lang='en'>": "HTML",
    b"<?xml version='1.0'?>\n<!DOCTYPE html PUBLIC '-//W3C//DTD XHTML 1.0'>": "HTML",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n": "git lfs pull",
    b"/annex/objects/SHA256E-s1--00.png\n": "git annex",
    b"outs:\n- md5: 00\n  path: x.png\n": "dvc pull",
    b"\0\0\0\x18ftypheic\0\0\0\0mif1": "HEIC",
    b"\0\0\0\x18ftypmif1\0\0\0\0heic": "HEIC",
    b"\0\0\0\x1cftypavif\0\0\0\0avifmif1": "AVIF",
    b"<svg xmlns='http://www.w3.org/2000/svg'/>": "SVG",
    b"<?xml version='1.0'?><!-- by hand --><svg/>": "SVG",
    b"%PDF-1.7\n": "PDF",
    b"\0\0\0\x20ftypisom\0\0\2\0": "ffmpeg",
    b"\0\0\0\x14ftypqt  ": "QuickTime",
    b"\x1aE\xdf\xa3\x9fB\x86\x81": "ffmpeg",
    b"RIFF\0\0\0\0AVI LIST": "ffmpeg",
    b"%!PS-Adobe-3.0 EPSF-3.0": "PostScript",
    b"\xff\x0a\xfa\x1f": "JPEG XL",
    b"\0\0\0\x0cjP  \r\n\x87\n": "JPEG 2000",
    b"8BPS\0\1": "Photoshop",
    b"PK\3\4\x14\0": "zip",
    b"\0" * 200: "zeros",
    b"\0" * 128 + b"DICM": "DICOM",
    b'{"error": "not found"}': "JSON",
    b"iVBORw0KGgoAAAANSUhEUg==": "base64",
    b"Access denied": "text",
    b"\x89PNG\r\n\x1a\n\0\0\0\0": "damaged",
    bytes(range(128, 255)): "no known kind",
}


@pytest.mark.parametrize("head", HEADS, ids=[word.replace(" ", "-") for word in HEADS.values()])
def test_file_is_named_with_cure(head: bytes) -> None:
    assert HEADS[head] in describe(head)


def test_truncation_differs_from_damage() -> None:
    assert "truncated" in describe_fault(b"\x89PNG\r\n", OSError("image file is truncated (3 bytes not processed)"))
    assert "damaged" in describe_fault(b"\x89PNG\r\n", SyntaxError("broken PNG file"))


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"save_all": True, "append_images": [Image.new("RGB", (70, 30))]}])
def test_pixels_of_webp_stand_in_its_head(options: dict[str, Any]) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (70, 30), (1, 2, 3)).save(stream, "WEBP", **options)
    assert webp_pixels(stream.getvalue()) == 70 * 30


@pytest.mark.parametrize("head", [b"", b"RIFF\1\0\0\0WEBPVP8 ", b"\x89PNG" + bytes(60)])
def test_what_is_no_webp_has_no_pixels(head: bytes) -> None:
    assert webp_pixels(head) == 0
