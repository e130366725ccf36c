"""A fingerprint of how a picture looks, in 160 bytes: resizing, JPEG and a small crop hardly change it, another photo of the same scene does.

- A hash has a bit for each of the 255 lowest frequencies of a gray picture (discrete cosine transform): is it above their median?
- A fingerprint has five hashes: of the picture, and of four crops that lack a twentieth of its width and height. A crop of a picture resembles the
  nearest of them.
- Two pictures are near if the hash of one differs from a hash of the other in at most `MAX_BITS` bits. `benchmarks.data` measures how many
  near-duplicates that finds, and how many other photos of a scene it takes for one.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

MAX_BITS = 68  # of 255; two unrelated pictures differ in 127 +- 8
SIDE, GRID, FREQUENCIES = 128, 64, 16  # least pixels of a reduced side; cells of what is transformed, and frequencies, in each direction
MEDIAN = FREQUENCIES**2 // 2 - 1  # of the frequencies without the mean brightness, counted from 0
LENGTHS = 2 * SIDE  # reduced sides whose maps stay in memory
CROP, OFFSETS = 0.05, (0.25, 0.75)  # share of a side that a crop lacks, and how much of it lies left of or above the crop
SPANS = ((0.0, 1.0), *((CROP * offset, 1 - CROP) for offset in OFFSETS))  # of a side, start and length: the whole, and what a crop leaves
FINGERPRINT_BYTES = (1 + len(OFFSETS) ** 2) * FREQUENCIES**2 // 8
PREFILTER_BITS = 120  # whole pictures that differ in more are not near, whatever their crops: it saves most of the comparisons
CHUNK = 64  # pictures that are compared at once with all others

Words = np.ndarray[Any, np.dtype[np.uint64]]


def fingerprint(image: Image.Image) -> bytes:
    """The fingerprint of a picture in gray or in color, `FINGERPRINT_BYTES` long."""
    factors = [max(1, side // SIDE) for side in image.size]
    common = min(factors)  # PIL reduces both sides alike faster
    reduced = image.convert("L").reduce((common, common) if max(factors) < 2 * common else (factors[0], factors[1]))
    low = _frequencies(reduced.height) @ np.asarray(reduced, dtype=np.float32) @ _frequencies(reduced.width).T
    parts = low.reshape(len(SPANS), FREQUENCIES, len(SPANS), FREQUENCIES).transpose(0, 2, 1, 3)
    hashed = np.stack([parts[0, 0], *parts[1:, 1:].reshape(-1, FREQUENCIES, FREQUENCIES)]).reshape(-1, FREQUENCIES**2)
    hashed[:, 0] = -np.inf  # the mean brightness says nothing
    medians = np.partition(hashed[:, 1:], MEDIAN, axis=1)[:, MEDIAN, None]
    return np.packbits(hashed > medians, axis=1).tobytes()


def near_pictures(pictures: Mapping[str, bytes], others: Mapping[str, bytes]) -> dict[str, list[str]]:
    """The names in `others` of those that each picture is near to, from fingerprints by name; without those that are near to none."""
    if not pictures or not others:
        return {}
    names, other_names = list(pictures), list(others)
    words, other_words = _words(pictures), _words(others)  # [picture, hash, word]
    near: dict[str, list[str]] = {}
    for start in range(0, len(names), CHUNK):
        chunk = words[start : start + CHUNK]
        rows, columns = np.nonzero(_bits(chunk[:, None, 0], other_words[None, :, 0]) <= PREFILTER_BITS)
        least = _least(chunk[rows], other_words[columns])
        for row, column in zip(rows[least <= MAX_BITS], columns[least <= MAX_BITS], strict=True):
            near.setdefault(names[start + row], []).append(other_names[column])
    return near


def least_bits(one: bytes, other: bytes) -> int:
    """The bits by which the picture of a fingerprint differs from the other's picture, or its nearest crop."""
    return int(_least(_words({"": one}), _words({"": other}))[0])


def _least(one: Words, other: Words) -> np.ndarray[Any, np.dtype[np.int64]]:
    """As `least_bits`, for pairs of fingerprints [pair, hash, word]."""
    least: np.ndarray[Any, np.dtype[np.int64]] = np.minimum(_bits(one[:, :1], other).min(axis=1), _bits(one, other[:, :1]).min(axis=1))
    return least


@lru_cache(maxsize=LENGTHS)
def _frequencies(pixels: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """From the pixels of a side to the lowest frequencies of each span of it, [span x frequency, pixel].

    The cells of a grid over the span average the pixels that they cover; the discrete cosine transform (II) takes the cells.
    """
    frequency, cell, pixel = np.arange(FREQUENCIES)[:, None], np.arange(GRID)[None, :], np.arange(pixels)
    cosines = np.cos(np.pi * frequency * (2 * cell + 1) / (2 * GRID))
    maps = []
    for start, length in SPANS:
        edges = pixels * (start + length * np.arange(GRID + 1) / GRID)[:, None]
        covered = np.clip(np.minimum(edges[1:], pixel + 1) - np.maximum(edges[:-1], pixel), 0, None)
        maps.append(cosines @ covered)
    return np.concatenate(maps).astype(np.float32)


def _words(fingerprints: Mapping[str, bytes]) -> Words:
    return np.frombuffer(b"".join(fingerprints.values()), dtype=np.uint64).reshape(len(fingerprints), -1, FREQUENCIES**2 // 64)


def _bits(a: Words, b: Words) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Bits that differ, over the last axis."""
    different: np.ndarray[Any, np.dtype[np.int64]] = np.bitwise_count(a ^ b).sum(axis=-1, dtype=np.int64)
    return different
