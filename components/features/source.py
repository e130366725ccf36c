"""Gives the roots of one run the features that are kept of their media.

- Media with features lose their pixels; small tensors, which the projector's packing needs, stay.
- An entry is checked when it is read first. A damaged one is forgotten, and its medium runs live with the same bits.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from components.families.adapters import Medium, Root, TowerOutput
from components.features.embedding import UnkeptMedium
from components.features.store import Entry, FeatureStore, unpacked

PIXELS = "pixel_values"  # how every family's processor begins the name of what only the tower reads


class KeptFeatures:
    """Gives the media of one run their kept features. Entries are read from mapped shards, and checked when they are read first."""

    def __init__(
        self, entries: Mapping[str, Entry | None], shards: Mapping[str, mmap.mmap], kept_as: torch.dtype, threads: int, root: Path
    ) -> None:
        self._entries = dict(entries)  # by Medium.key; none for a medium of this run that is not kept
        self._shards = shards
        self._kept_as, self._threads, self._root = kept_as, threads, root
        self._read: dict[str, TowerOutput] = {}

    def attach(self, root: Root) -> Root:
        """`root` with features in the media of this run, without their pixels. Other media stay as they are."""
        return replace(root, media=tuple(self._attached(medium) for medium in root.media)) if root.media else root

    def _attached(self, medium: Medium) -> Medium:
        if medium.key not in self._entries:
            return medium
        entry = self._entries[medium.key]
        # A prompt with several images may read them otherwise than one with that image alone.
        features = self._features(entry) if entry is not None and entry.source == source_of(medium) else None
        if features is None:
            return UnkeptMedium(medium.kind, medium.key, medium.tensors, None, self._kept_as, self._threads)
        small = {name: tensor for name, tensor in medium.tensors.items() if not name.startswith(PIXELS)}
        return replace(medium, tensors=small, features=features)

    def _features(self, entry: Entry) -> TowerOutput | None:
        if entry.key not in self._read:
            found = unpacked(self._shards[entry.shard], entry)
            if found is None:
                print(f"features: an entry of {entry.shard} is damaged: its medium runs live, and is made again next time", flush=True)
                with FeatureStore(self._root) as store:
                    store.forget([entry.key])
                self._entries = {key: None if kept == entry else kept for key, kept in self._entries.items()}
                return None
            self._read[entry.key] = found
        return self._read[entry.key]


def source_of(medium: Medium) -> str:
    """What a medium was to the tower: kind, and the names and shapes of its tensors."""
    return json.dumps([medium.kind, sorted((name, list(tensor.shape)) for name, tensor in medium.tensors.items())])
