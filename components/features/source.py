"""Gives the media of one run their cached features.

- Media with features lose their pixels; small tensors, which the projector's packing needs, stay.
- The first read of an entry checks it. The store forgets a damaged entry, and its medium runs live with the same bits.
- A read copies the entry and releases its pages: else a process that reads all media would hold all features in the end.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from components.checkout import Checkout
from components.families.adapters import Medium, Root, VisionOutput
from components.features.embedding import UncachedMedium
from components.features.entries import Entries
from components.features.store import Entry, FeatureStore, intact, release, unpacked

PIXELS = "pixel_values"  # every family's prefix of the tensors that only the vision tower reads


class CachedFeatures:
    """The cached features of one run's media, in mapped shards. The first read of an entry checks it."""

    def __init__(
        self,
        entries: Entries,
        shards: Mapping[str, mmap.mmap],
        cache_dtype: torch.dtype,
        threads: int,
        checkout: Checkout,
    ) -> None:
        self._entries, self._shards = entries, shards
        self._cache_dtype, self._threads, self._checkout = cache_dtype, threads, checkout
        self._checked = np.zeros(len(entries.cached), dtype=np.bool_)

    def attach(self, root: Root) -> Root:
        """`root` with features in the media of this run, without their pixels. Other media stay as they are."""
        return replace(root, media=tuple(self._attached(medium) for medium in root.media)) if root.media else root

    def _attached(self, medium: Medium) -> Medium:
        position = self._entries.position(medium.key)
        if position is None:
            return medium
        entry = self._entries.entry(position, medium.key)
        # A prompt with several images may read an image in another way than a prompt with one.
        features = self._features(position, entry) if entry is not None and entry.source == source_of(medium) else None
        if features is None:
            return UncachedMedium(medium.kind, medium.key, medium.tensors, None, self._cache_dtype, self._threads)
        small = {name: tensor for name, tensor in medium.tensors.items() if not name.startswith(PIXELS)}
        return replace(medium, tensors=small, features=features)

    def _features(self, position: int, entry: Entry) -> VisionOutput | None:
        content = self._shards[entry.shard]
        if not self._checked[position]:
            if not intact(content, entry):
                print(f"features: an entry of {entry.shard} is damaged: its medium runs live; the next run recomputes it", flush=True)
                with FeatureStore(self._checkout) as store:
                    store.forget([entry.key])
                self._entries.drop([position])
                return None
            self._checked[position] = True
        features = tuple(level.clone() for level in unpacked(content, entry))
        release(content, entry)
        return features


def source_of(medium: Medium) -> str:
    """A medium's form as vision tower input: its kind, and the names and shapes of its tensors."""
    return json.dumps([medium.kind, sorted((name, list(tensor.shape)) for name, tensor in medium.tensors.items())])
