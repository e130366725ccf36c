"""The media of the preferences folder, each examined once for all of its rows, ahead of the rows and by several processes."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import PIL

from components.checkout import Checkout
from components.files import digest_bytes
from components.meaning import read_meaning
from components.preferences import bounds as bounds_module
from components.preferences import colors, frames, media, media_kinds
from components.preferences.bounds import MediaBounds
from components.preferences.faults import RowError, shorten
from components.processes.host import available_cores
from components.storage.content_cache import ContentCache
from components.validation import examination, perceptual
from components.validation.decoding import Decoders, Request
from components.validation.examination import Examiner, Fault, Kind, Medium

if TYPE_CHECKING:
    from components.config.validate import ValidateSettings

CACHE = "media"
STORED_AT_ONCE = 2000  # results in one transaction of the cache

log = logging.getLogger(__name__)


class MediaFolder:
    """The preferences folder; media paths are relative to it.

    Without a checkout, media are examined in this process and nothing is remembered: for media that were validated before.
    """

    def __init__(
        self,
        root: Path,
        bounds: MediaBounds = MediaBounds(),  # noqa: B008 -- it never changes
        checkout: Checkout | None = None,
        decoders: int | None = None,
    ) -> None:
        self.root = root
        self._examined: dict[Request, Medium | Fault] = {}
        self._open: set[Request] = set()
        self._fresh: dict[str, Any] = {}
        self._checkout = checkout
        reader = reader_digest()
        self._examiner = Examiner(root, bounds, None, reader)
        self._decoders: Decoders | None = None
        if checkout is not None:
            arguments = {
                "root": str(root.resolve()),
                "bounds": asdict(bounds),
                "checkout": str(checkout.root.resolve()),
                "kind": CACHE,
                "reader": reader,
            }
            self._decoders = Decoders(self._examiner, arguments, bounds, decoders or max(1, int(available_cores()[0])))

    def request(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Begin to examine the media that `rows` name, for those who will ask for them."""
        for row in rows:
            self._request(row)
        self._take(block=False)

    def examine(self, path: str, kind: Kind) -> Medium:
        """Check a medium and digest it. Raises RowError."""
        request = (path, kind)
        if request not in self._examined:
            if self._decoders is None:
                self._examined[request] = self._examiner.examine(path, kind).result
            else:
                self._submit(request)
                while request not in self._examined:
                    self._take(block=True)
        result = self._examined[request]
        if isinstance(result, Fault):
            raise RowError(result.kind, kind, result.reason)
        return result

    def _request(self, row: Mapping[str, Any]) -> None:
        if self._decoders is None:
            return
        kinds: tuple[Kind, ...] = ("image", "video")
        for kind in kinds:
            value = row.get(kind)
            for path in value if isinstance(value, list) else [value]:
                if isinstance(path, str) and path:
                    self._submit((path, kind))

    def _submit(self, request: Request) -> None:
        assert self._decoders is not None
        if request not in self._examined and request not in self._open:
            self._open.add(request)
            self._decoders.submit(request)

    def _take(self, *, block: bool) -> None:
        if self._decoders is None:
            return
        for request, examined in self._decoders.answers(block=block):
            self._open.discard(request)
            self._examined[request] = examined.result
            self._fresh |= examined.fresh
        if len(self._fresh) >= STORED_AT_ONCE:
            self.remember()

    def remember(self) -> None:
        """Put what was found into the cache."""
        if self._fresh and self._checkout is not None:
            with ContentCache(self._checkout, CACHE) as cached:
                cached.store(self._fresh)
        self._fresh = {}

    def close(self) -> None:
        """End the processes, remember what they found, and log which media hold more than one picture."""
        if self._decoders is not None:
            self._decoders.close()
        self._open.clear()
        self.remember()
        several = [path for (path, _), result in self._examined.items() if isinstance(result, Medium) and result.pages]
        if several:
            log.warning(
                "%d media are animations or have several pages: the first picture of each is read (the first such is %s)",
                len(several),
                shorten(several[0], examination.SHOWN),
            )


@cache
def reader_digest() -> str:
    """Digest of the code that reads and examines media, and of the library that decodes them."""
    modules = (bounds_module, colors, frames, media, media_kinds, examination, perceptual)
    paths = [Path(str(module.__file__)) for module in modules]
    return digest_bytes(PIL.__version__, *(read_meaning(path.read_bytes(), path.name).digest for path in paths))


def bounds_of(settings: ValidateSettings) -> MediaBounds:
    """The bounds on media in section `validate`."""
    return MediaBounds(
        pixels=settings.max_pixels,
        media_pixels=settings.max_media_pixels,
        frames=settings.max_folder_frames,
        scans=settings.max_scans,
        seconds=settings.max_media_seconds,
        gigabytes=settings.max_media_gb,
    )
