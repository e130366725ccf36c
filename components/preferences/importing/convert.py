"""The two steps of an import that run in processes of their own: raw rows to pairs and rankings, and the pairs of a prompt to rows."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from components.errors import UserError
from components.files import digest_bytes
from components.preferences.faults import RowError, shorten
from components.preferences.formats.detection import FORMATS
from components.preferences.formats.grouping import PlacedPair, group
from components.preferences.formats.mm_rlhf import row_of
from components.preferences.formats.pieces import Answer, Medium, Message, Pair, Prompt, Ranked
from components.preferences.importing.library import Library
from components.preferences.importing.sources import Raw
from components.preferences.json_rows import parse_row
from components.preferences.ranking import UnknownRankingError


@dataclass(frozen=True)
class Options:
    """What every process of an import needs: format, folders of the media, folder to copy them to, folder where they will lie."""

    format: str
    root: Path
    beside: Path
    target: Path
    present: Path


class Finding(NamedTuple):
    """Something that a row shows: how often (`times`), where (index of the file, line), and in words."""

    position: int
    file: int
    line: int
    kind: str
    field: str
    reason: str
    times: int = 1


# A pair: digest of its prompt, position, file, line, chosen, rejected, and their reasons. A plain tuple travels between processes at half the cost.
PairEntry = tuple[bytes, int, int, int, str, str, str, str]


class RankedEntry(NamedTuple):
    """A row of data.jsonl, as JSON text without its line end."""

    position: int
    file: int
    line: int
    id: str
    pairs: int
    body: bytes


class Chunk(NamedTuple):
    """Rows of a file; `position` is the place of the first among all rows of the source."""

    file: int
    name: str
    position: int
    rows: list[tuple[int, Raw]]


class Group(NamedTuple):
    """All pairs of one prompt, and the prompt as JSON text."""

    key: bytes
    prompt: bytes
    pairs: list[PairEntry]


@dataclass
class Converted:
    """What became of a chunk."""

    rows: int = 0
    pairs: list[PairEntry] = field(default_factory=list)
    prompts: dict[bytes, bytes] = field(default_factory=dict)
    ranked: list[RankedEntry] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    unread: Counter[str] = field(default_factory=Counter)


class Converter:
    """Converts rows of one format. Each process has its own."""

    def __init__(self, options: Options) -> None:
        self._format = FORMATS[options.format]
        self._media = Library(options.root, options.target, options.present, own_names=self._format.own_paths, beside=options.beside)

    def convert(self, chunk: Chunk) -> Converted:
        """The pairs and rankings of a chunk. Raises UnknownRankingError with file and line, since it concerns the whole file."""
        converted = Converted(rows=len(chunk.rows))
        for position, (line, raw) in enumerate(chunk.rows, start=chunk.position):
            try:
                self._row(raw, (position, chunk.file, line), converted)
            except RowError as fault:
                converted.findings.append(Finding(position, chunk.file, line, fault.kind, fault.field, fault.reason))
            except UnknownRankingError as error:
                raise UserError(f"{chunk.name} line {line}: {error}") from error
        return converted

    def _row(self, raw: Raw, place_of_row: tuple[int, int, int], converted: Converted) -> None:
        if isinstance(raw, RowError):
            raise raw
        row = raw if isinstance(raw, dict) else parse_row(raw)
        if (against := self._format.against(row)) is not None:
            raise RowError("other_format", "", f"the row is not {self._format.name}: {against}")
        value = self._format.read(row)
        names = [self._media.store(medium, medium.kind) for medium in value.prompt.media]
        converted.unread.update(name for name in row if name not in self._format.fields and row[name] not in (None, "", [], {}))
        if isinstance(value, Ranked):
            self._ranked(value, names, place_of_row, converted)
        else:
            self._pair(value, names, place_of_row, converted)

    def _pair(self, pair: Pair, names: list[str], place_of_row: tuple[int, int, int], converted: Converted) -> None:
        for name, text in (("chosen", pair.chosen), ("rejected", pair.rejected)):
            if not text.strip():
                raise RowError("empty_response", name, "is empty")
        if pair.chosen == pair.rejected:
            raise RowError("equal_answers", "rejected", "is the same text as chosen")
        prompt = pair.prompt
        texts = [part for message in prompt.turns for part in (message.role, message.text)]
        content = "".join(f"{len(part)}:{part}" for part in (prompt.id or "", *texts, "", *names))
        key = hashlib.sha256(content.encode()).digest()[:16]
        if key not in converted.prompts:
            turns = [[message.role, message.text] for message in prompt.turns]
            media = [[medium.kind, name] for medium, name in zip(prompt.media, names, strict=True)]
            body = [prompt.id, turns, media, prompt.source, prompt.category]
            converted.prompts[key] = json.dumps(body, ensure_ascii=False).encode()
        converted.pairs.append((key, *place_of_row, pair.chosen, pair.rejected, pair.chosen_reason, pair.rejected_reason))
        converted.counts["pairs"] += 1

    def _ranked(self, ranked: Ranked, names: list[str], place_of_row: tuple[int, int, int], converted: Converted) -> None:
        prompt = ranked.prompt
        media = tuple(Medium(medium.kind, name) for medium, name in zip(prompt.media, names, strict=True))
        row: dict[str, Any]
        if ranked.row is not None:
            row = dict(ranked.row)
            if media != prompt.media:
                row |= _media_fields(media)
        else:
            stored = Prompt(prompt.turns, media, prompt.id or "", prompt.source, prompt.category)
            row = row_of(Ranked(stored, ranked.answers))
        if row.get("id") in (None, ""):
            row["id"] = f"{self._format.name}-{digest_bytes(json.dumps(row, sort_keys=True))[:16]}"
        body, pairs = json.dumps(row, ensure_ascii=False).encode(), len(ranked.pairs())
        converted.ranked.append(RankedEntry(*place_of_row, str(row["id"]), pairs, body))
        converted.counts["pairs"] += pairs
        converted.counts["unrated"] += ranked.unrated
        if ranked.unrated:
            converted.findings.append(Finding(*place_of_row, "unrated", "completions", "answers without any rating", ranked.unrated))


def _media_fields(media: Sequence[Medium]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for kind in ("image", "video"):
        names = [medium.path for medium in media if medium.kind == kind]
        if names:
            fields[kind] = names if len(names) > 1 else names[0]
    return fields


class Written(NamedTuple):
    """A row of data.jsonl: its id, its JSON text, and the position, file and line of its first pair."""

    id: str
    body: bytes
    first: tuple[int, int, int]


def rows_of_groups(format_name: str, groups: Sequence[Group]) -> tuple[list[Written], list[Finding], Counter[str]]:
    """The rows of the queries that these prompts' pairs make; a second query of a prompt has its number in its id."""
    written: list[Written] = []
    findings: list[Finding] = []
    counts: Counter[str] = Counter()
    for one in groups:
        identity, turns, media, source, category = json.loads(one.prompt)
        first = one.pairs[0][1:4]
        grouped = group([PlacedPair(entry[1], *entry[4:]) for entry in one.pairs])
        for kind, position, count in grouped.findings:
            entry = next(entry for entry in one.pairs if entry[1] == position)
            reason = f"of the prompt {shorten(turns[-1][1])}"
            findings.append(Finding(*entry[1:4], kind, "", reason, count))
        base = identity or f"{format_name}-{one.key.hex()[:16]}"
        for number, order in enumerate(grouped.orders, start=1):
            prompt = Prompt(
                tuple(Message(role, text) for role, text in turns),
                tuple(Medium(kind, name) for kind, name in media),
                base if number == 1 else f"{base}-{number}",
                source,
                category,
            )
            if number > 1 and identity:
                findings.append(Finding(*first, "id_changed", "id", f"{shorten(base)} has a second query: {prompt.id}"))
            answers = tuple(
                Answer(text, rank, reason=reason) for text, rank, reason in zip(order.texts, order.ranks, order.reasons, strict=True)
            )
            ranked = Ranked(prompt, answers)
            counts["pairs_out"] += sum(one < other for one in order.ranks for other in order.ranks)
            written.append(Written(str(prompt.id), json.dumps(row_of(ranked), ensure_ascii=False).encode(), first))
    return written, findings, counts


_converter: list[Converter] = []  # of this process


def start_process(options: Options, parent: int) -> None:
    """Prepare a process of the pool; it ends when the import's process does, even by SIGKILL."""
    _converter[:] = [Converter(options)]

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def convert_in_process(chunk: Chunk) -> Converted:
    """`Converter.convert` in a process of the pool."""
    return _converter[0].convert(chunk)
