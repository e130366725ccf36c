"""The refused rows: one line each in quarantine.jsonl, and the error that ends the stage if there are too many."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from components.errors import UserError
from components.files import write_atomic
from components.preferences.faults import RowError

# Every kind of fault, in words for counts: "3 with a missing or unreadable medium".
KINDS = {
    "json": "not valid JSON",
    "encoding": "not clean UTF-8",
    "not_a_number": "with NaN or infinity",
    "duplicate_key": "with a key twice",
    "nesting": "nested too deeply",
    "line_too_long": "too long a line",
    "type": "with a value of the wrong type",
    "missing_field": "without a needed field",
    "id": "with an unusable id",
    "duplicate_id": "with an id seen before",
    "split_overlap": "with an id that is held out",
    "leak": "with media and prompt that are held out",
    "empty_prompt": "with an empty prompt",
    "turns": "with turns that make no conversation",
    "media_marks": "with more or fewer marks than media",
    "few_responses": "with too few responses",
    "many_responses": "with too many responses",
    "empty_response": "with an empty response",
    "long_response": "with an over-long response",
    "length": "with lists of unequal length",
    "ranking": "without a weak order of ranks",
    "contradiction": "that contradict another row",
    "repeated": "that repeat another row under a new id",
    "score": "with a score out of range",
    "safety": "with an unknown safety label",
    "category": "with an unknown category",
    "media_missing": "with media that are not there",
    "media_path": "with a media path that is not allowed",
    "media_undecodable": "with media that can't be decoded",
    "media_too_large": "with media that are too large",
    "special_token": "with a special token in a text",
    "too_long": "too long for model.max_length",
}
HARMLESS = "repeated"  # used once, so that nothing is lost
KINDS_SHOWN = 6  # in the sentence that ends a stage, the most frequent first


@dataclass(frozen=True)
class Refusal:
    """A refused row: file as in messages, line from 1, field (empty for the whole line), reason, and kind for counts."""

    file: str
    line: int
    field: str
    reason: str
    kind: str

    @staticmethod
    def of(file: str, line: int, fault: RowError) -> Refusal:
        """The refusal of a line for a fault."""
        assert fault.kind in KINDS, fault.kind
        return Refusal(file, line, fault.field, fault.reason, fault.kind)


def write_quarantine(path: Path, refusals: Sequence[Refusal]) -> None:
    """Write quarantine.jsonl: keys file, line, field, reason, in the order of files and lines."""
    ordered = sorted(refusals, key=lambda refusal: (refusal.file, refusal.line))
    rows = [{"file": item.file, "line": item.line, "field": item.field, "reason": item.reason} for item in ordered]
    write_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def check_share(file: str, rows: int, refusals: Sequence[Refusal], limit: float, quarantine: str) -> None:
    """Raises UserError, with counts by kind and the first place, when more than `limit` of a file's rows are refused, repeated ones apart."""
    own = sorted((item for item in refusals if item.file == file and item.kind != HARMLESS), key=lambda item: item.line)
    if not own or len(own) / rows <= limit:
        return
    kinds = Counter(refusal.kind for refusal in own).most_common()
    counts = ", ".join(f"{count} {KINDS[kind]}" for kind, count in kinds[:KINDS_SHOWN])
    if len(kinds) > KINDS_SHOWN:
        counts += f" and {sum(count for _, count in kinds[KINDS_SHOWN:])} of {len(kinds) - KINDS_SHOWN} other kinds"
    first = own[0]
    where = f"line {first.line}, {first.field}" if first.field else f"line {first.line}"
    raise UserError(
        f"{file}: {len(own)} of {rows} rows are bad ({len(own) / rows:.1%}, validate.max_quarantined_share allows {limit:.1%}): {counts};"
        f" the first is {where}: {first.reason}; {quarantine} lists all"
    )
