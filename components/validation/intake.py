"""One file of rows to accepted queries and refusals, row by row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from components.files import digest_bytes
from components.preferences.faults import RowError, shorten
from components.preferences.ranking import UnknownRankingError
from components.preferences.record import Medium, Query
from components.preferences.release import READ_FIELDS, query_from_row
from components.validation.lengths import LengthCheck
from components.validation.lines import read_lines
from components.validation.media import MediaFolder
from components.validation.quarantine import Refusal

if TYPE_CHECKING:
    from components.config.validate import ValidateSettings


@dataclass
class Intake:
    """A file's result: accepted queries in its order, refusals, the number of rows, and the counts of unread fields."""

    file: str
    queries: list[Query] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    rows: int = 0
    unread: Counter[str] = field(default_factory=Counter)


@dataclass
class HeldoutContent:
    """The held-out ids and contents (media with prompt), which training rows must not repeat."""

    ids: Collection[str] = ()
    contents: Collection[str] = ()


class Validator:
    """The checks between a row and a query, the cheap ones first."""

    def __init__(self, settings: ValidateSettings, media: MediaFolder, lengths: LengthCheck) -> None:
        self._settings, self._media, self._lengths = settings, media, lengths

    def read(self, path: Path, file: str, split: Literal["train", "heldout"], heldout: HeldoutContent) -> Intake:
        """Read a file. Raises UnknownRankingError with file and line, since it concerns every row."""
        intake = Intake(file)
        line_of: dict[str, int] = {}
        for line in read_lines(path):
            intake.rows += 1
            try:
                if line.fault is not None:
                    raise line.fault
                assert line.row is not None
                query = self._accept(line.row, split, line_of, heldout)
            except RowError as fault:
                intake.refusals.append(Refusal.of(file, line.number, fault))
                continue
            except UnknownRankingError as error:
                raise UnknownRankingError(f"{file} line {line.number}: {error}") from error
            line_of[query.id] = line.number
            intake.queries.append(query)
            intake.unread.update(name for name in line.row if name not in READ_FIELDS)
        return intake

    def _accept(self, row: dict[str, Any], split: Literal["train", "heldout"], line_of: dict[str, int], heldout: HeldoutContent) -> Query:
        query = query_from_row(row, split)
        if query.id in line_of:
            raise RowError("duplicate_id", "id", f"{shorten(query.id)} stands already in line {line_of[query.id]}")
        if query.id in heldout.ids:
            raise RowError("split_overlap", "id", f"{shorten(query.id)} stands in the held-out file too")
        self._check_responses(query)
        query = replace(query, media=tuple(self._examined(medium) for medium in query.media))
        if content_key(query) in heldout.contents:
            raise RowError("leak", "question", "the same media and prompt stand in the held-out file too")
        self._lengths.check(query)
        return query

    def _examined(self, medium: Medium) -> Medium:
        seen = self._media.examine(medium.path, medium.kind)
        return replace(medium, digest=seen.digest, size=(seen.width, seen.height, seen.frames))

    def _check_responses(self, query: Query) -> None:
        count, least = len(query.responses), self._settings.min_responses
        if count < least:
            raise RowError("few_responses", "models_output", f"has {count} responses, fewer than validate.min_responses {least}")
        for index, response in enumerate(query.responses):
            characters, most = len(response.text), self._settings.max_response_characters
            if not response.text.strip():
                raise RowError("empty_response", f"models_output[{index}]", "is empty")
            if characters > most:
                raise RowError(
                    "long_response",
                    f"models_output[{index}]",
                    f"has {characters} characters, more than validate.max_response_characters {most}",
                )


def content_key(query: Query) -> str:
    """Media and texts as one key, without the texts' white space and case: queries with one key must stay in one split."""
    texts = " ".join(turn.text for turn in query.turns)
    return digest_bytes(" ".join(medium.digest or "" for medium in query.media), " ".join(texts.split()).casefold())
