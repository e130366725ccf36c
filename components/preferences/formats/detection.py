"""Which format a file's rows are in. Where two formats fit, somebody must say which: a guess could read other preferences than were meant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from components.errors import UserError
from components.preferences.formats.llama_factory import LlamaFactory
from components.preferences.formats.mm_rlhf import MmRlhf
from components.preferences.formats.mm_rlhf_pairs import MmRlhfPairs
from components.preferences.formats.pieces import Format, Row
from components.preferences.formats.rlaif_v import RlaifV
from components.preferences.formats.rlhf_v import RlhfV
from components.preferences.formats.swift import Swift
from components.preferences.formats.trl import Trl
from components.preferences.formats.vlfeedback import VlFeedback

FORMATS: dict[str, Format] = {
    format_.name: format_ for format_ in (MmRlhf(), MmRlhfPairs(), Trl(), LlamaFactory(), Swift(), RlhfV(), RlaifV(), VlFeedback())
}
LEAST_SHARE = 0.5  # of the sampled rows that a format must fit


class AmbiguousFormat(UserError):
    """Several formats fit the rows; `candidates` are their names."""

    def __init__(self, sentence: str, candidates: tuple[str, ...]) -> None:
        super().__init__(sentence)
        self.candidates = candidates


def format_named(name: str) -> Format:
    """The format of this name. Raises UserError with the names."""
    if name not in FORMATS:
        raise UserError(f"--format {name!a} is none of auto, hf, {', '.join(FORMATS)}")
    return FORMATS[name]


def detect(rows: Sequence[Row], source: str) -> Format:
    """The one format that fits these first rows of `source`. Raises UserError where none does, AmbiguousFormat where several do."""
    if not rows:
        raise UserError(f"{source} holds no readable row: name a file of JSON objects, one a line or in an array, or a Parquet file")
    fits = {format_.name: sum(format_.against(row) is None for row in rows) for format_ in FORMATS.values()}
    candidates = tuple(name for name, count in fits.items() if count >= LEAST_SHARE * len(rows))
    if len(candidates) > 1:
        titles = "; ".join(f"{name}: {FORMATS[name].title}" for name in candidates)
        raise AmbiguousFormat(f"{source} fits {len(candidates)} formats ({titles}): name the one that is meant with --format", candidates)
    if not candidates:
        raise UserError(f"{source} is in none of the formats: {_nearest(rows, fits)}; see docs/import.md, and name a format with --format")
    return FORMATS[candidates[0]]


def seems(rows: Sequence[Row]) -> tuple[str, ...]:
    """The names of the formats that fit these rows; for messages about rows that are in another format than was meant."""
    return tuple(
        format_.name
        for format_ in FORMATS.values()
        if rows and sum(format_.against(row) is None for row in rows) >= LEAST_SHARE * len(rows)
    )


def _nearest(rows: Sequence[Row], fits: dict[str, int]) -> str:
    fields = Counter(field for row in rows for field, value in row.items() if value is not None)
    shown = ", ".join(sorted(field if field.isprintable() else ascii(field) for field, _ in fields.most_common(8)))
    mixed = [name for name, count in fits.items() if count]
    if mixed:
        return f"its first {len(rows)} rows fit {', '.join(f'{name} ({fits[name]})' for name in mixed)}, so that none has half of them"
    reasons = {name: str(format_.against(rows[0])) for name, format_ in FORMATS.items()}
    nearest = min(FORMATS, key=lambda name: (-len(FORMATS[name].fields & fields.keys()), reasons[name].count(",")))
    return f"its rows hold {shown or 'nothing'}, and the nearest format is {nearest} ({reasons[nearest]})"
