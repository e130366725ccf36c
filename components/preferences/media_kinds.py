"""Names what a file is that can't be read as an image, with a cure."""

from __future__ import annotations

import re
import shlex

HEAD = 4096  # bytes of a file that are enough to name it
WEBP_HEADER = 30  # bytes, with the size of the picture

_TEXTS = (
    (rb"version https://git-lfs\.github\.com/spec", "is a Git-LFS pointer, not the image: run `git lfs pull`"),
    (rb"/annex/objects/|\.\./.*\.git/annex/", "is a git-annex pointer, not the image: run `git annex get`"),
    (
        rb"(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*<!doctype html|(?:<!--.*?-->\s*)*<html|<head|<body",
        "is an HTML page, not an image: download the image itself",
    ),
    (rb"(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*|<!doctype svg.*?>\s*)*<(?:\w+:)?svg", "is an SVG drawing, not pixels: save it as PNG"),
    (rb"<\?xml", "is an XML document, not an image"),
    (rb"data:image/", "is a data address as text, not an image: decode its base64"),
    (rb"(?:iVBORw0KGgo|/9j/|R0lGOD|UklGR)", "is base64 text, not an image: decode it"),
    (rb"outs:\s*\n- md5", "is a DVC pointer, not the image: run `dvc pull`"),
    (rb"[{\[]", "is JSON text, not an image"),
)
_BYTES = (
    (rb"\x1aE\xdf\xa3", "is a video (Matroska or WebM)"),
    (rb"RIFF....AVI ", "is a video (AVI)"),
    (rb"FLV\x01|\x00\x00\x01[\xb3\xba]|G.{187}G", "is a video"),
    (rb"OggS", "is an Ogg video or sound"),
    (rb"RIFF....WAVE|ID3|fLaC", "is a sound"),
    (rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "is a video (WMV)"),
    (rb"%PDF-", "is a PDF document, not an image: save the page as PNG"),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "is a PostScript drawing, not pixels: save it as PNG"),
    (rb"\xff\x0a|\x00\x00\x00\x0cJXL ", "is a JPEG XL image: save it as PNG or JPEG"),
    (rb"\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51", "is a JPEG 2000 image: save it as PNG or JPEG"),
    (rb"8BPS", "is a Photoshop file: save it as PNG"),
    (rb"\x00\x00[\x01\x02]\x00[^\x00]\x00", "is an icon (ICO): save it as PNG"),
    (rb"\x93NUMPY", "is a NumPy array: save it as PNG"),
    (rb".{128}DICM", "is a DICOM file: save it as PNG"),
    (rb"PK\x03\x04", "is a zip archive: unpack it"),
    (rb"\x1f\x8b|BZh|\xfd7zXZ\x00|\x28\xb5\x2f\xfd|7z\xbc\xaf|Rar!", "is a compressed archive: unpack it"),
    (rb"\x7fELF|MZ", "is a program, not an image"),
    (rb"\x00{64}", "holds only zeros: its download or copy failed"),
)
_BRANDS = (
    (rb"avi[fs]", "is an AVIF image: save it as PNG or JPEG"),
    (rb"hei[cxms]|hev[cxms]|mif[12]|msf1", "is a HEIC image, as phones save them: save it as JPEG"),
    (rb"qt  ", "is a video (QuickTime)"),
    (rb"cr[x3]", "is a camera's raw file: save it as JPEG"),
)
_IMAGES = (b"\x89PNG", b"\xff\xd8", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"RIFF", b"P1", b"P2", b"P3", b"P4", b"P5", b"P6", b"Pf")
_FRAMES = ": make a folder of its frames (mkdir -p CLIP && ffmpeg -i FILE -vf fps=1 CLIP/%05d.png), and name the folder in the field video"


def webp_pixels(head: bytes) -> int:
    """The pixels of a WebP by its first bytes, 0 for what is none (RFC 9649, sections 2.5 to 2.7)."""
    kind = head[12:16] if head[:4] == b"RIFF" and head[8:12] == b"WEBP" and len(head) >= WEBP_HEADER else b""
    if kind == b"VP8X":
        return (int.from_bytes(head[24:27], "little") + 1) * (int.from_bytes(head[27:30], "little") + 1)
    if kind == b"VP8L":
        sides = int.from_bytes(head[21:25], "little")
        return ((sides & 0x3FFF) + 1) * ((sides >> 14 & 0x3FFF) + 1)
    if kind == b"VP8 ":
        return (int.from_bytes(head[26:28], "little") & 0x3FFF) * (int.from_bytes(head[28:30], "little") & 0x3FFF)
    return 0


def describe(head: bytes) -> str:
    """What a file is by its first bytes, as a reason that follows its name ("is an HTML page, ..."); FILE and CLIP stand for its path in it."""
    if not head:
        return "is empty (0 bytes)"
    if head[4:8] == b"ftyp":
        return next((_with_cure(reason) for pattern, reason in _BRANDS if re.match(pattern, head[8:12])), _with_cure("is a video (MP4)"))
    if head[4:8] in {b"moov", b"mdat", b"wide"}:
        return _with_cure("is a video (QuickTime)")
    for pattern, reason in _BYTES:
        if re.match(pattern, head, re.DOTALL):
            return _with_cure(reason)
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    for pattern, reason in _TEXTS:
        if re.match(pattern, text, re.DOTALL | re.IGNORECASE):
            return reason
    if head.startswith(_IMAGES):
        return "cannot be decoded as an image: it is damaged"
    if _is_text(head):
        return "is text, not an image"
    return "cannot be decoded as an image: it is of no known kind"


def describe_fault(head: bytes, error: Exception) -> str:
    """`describe` for a file whose decoder raised `error`."""
    if head.startswith(_IMAGES) and re.search(
        r"truncated|not enough|premature|unexpected end|broken data stream", str(error), re.IGNORECASE
    ):
        return "cannot be decoded as an image: it is truncated, since its download or copy was cut off"
    return describe(head)


def with_path(reason: str, path: str) -> str:
    """A reason of `describe` with the path of its file in the command that it names."""
    if "CLIP" not in reason or not path.isascii() or not path.isprintable():
        return reason
    return reason.replace("FILE", shlex.quote(path)).replace("CLIP", shlex.quote(path.rpartition(".")[0] or f"{path}.frames"))


def _with_cure(reason: str) -> str:
    return reason + _FRAMES if reason.startswith("is a video") else reason


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:
            return False
        text = head[: error.start].decode()
    return all(character.isprintable() or character.isspace() for character in text)
