"""Converts rows of the MM-RLHF release (`data.jsonl`) to records and back. docs/data-format.md lists every field.

- A row may omit fields that follow from others: the category follows from the media's folder, the options or the answer's length.
- This module checks a row without opening its media.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, cast

from components.preferences.faults import RowError, finite_number, shorten, wrong_type
from components.preferences.ranking import Listed, parse_ranking, written_ranking
from components.preferences.record import CATEGORIES, Category, Kind, Medium, Query, Response
from components.preferences.texts import is_blank
from components.preferences.turns import CONVERSATIONS, media_fields, read_turns, refuse_marks, turn_fields

ANSWER_CHARACTERS_SHORT = 128  # paper section 2: a longer answer makes a question "long"
LOWEST_SCORE, HIGHEST_SCORE = 1.0, 5.0
HUMAN = "human"  # source of the reasons in the release
MAX_ID_CHARACTERS = 512
RELEASE_FIELDS = ("id", "question", "answer", "image", "video", "models_output", "faithfulness", "helpfulness", "ethical", "final_ranking")
OWN_FIELDS = ("score_reasons", "ranking_reason", "category", "safety", "source", "critique_source", "group", "clusters")
READ_FIELDS = frozenset({*RELEASE_FIELDS, "ethics", *OWN_FIELDS, *CONVERSATIONS})

_OPTION_LINE = re.compile(r"^\s*\(?([A-H])[.):]\s*\S", re.MULTILINE)
_OPTION_INLINE = re.compile(r"\(([A-H])\)\s*\S")


def query_from_row(row: Mapping[str, Any], split: Literal["train", "heldout"] = "train", listed: Listed = "ranks") -> Query:
    """The record of one release row, without its media's digests; `listed` says what a list in final_ranking means.

    Raises RowError; UnknownRankingError concerns the whole file.
    """
    identity = _identity(row.get("id"))
    turns, media = read_turns(row)
    texts = _texts(row.get("models_output"))
    count = len(texts)
    ranks = parse_ranking(row.get("final_ranking"), count, listed) if count else []
    faithfulness = _scores(row, "faithfulness", count)
    helpfulness = _scores(row, "helpfulness", count)
    ethics = _scores(row, "ethical" if _present(row.get("ethical")) else "ethics", count)
    critiques = _list_of_texts(row, "score_reasons", count)
    sources = _list_of_texts(row, "critique_source", count)
    responses = tuple(
        Response(
            text=texts[index],
            rank=ranks[index],
            faithfulness=faithfulness[index],
            helpfulness=helpfulness[index],
            ethics=ethics[index],
            critique=critiques[index],
            critique_source=(sources[index] or HUMAN) if critiques[index] else None,
        )
        for index in range(count)
    )
    answer, safety = _answer(row), _safety(row)
    best = min(responses, key=lambda response: response.rank).text if responses else ""
    return Query(
        id=identity,
        category=_category(row, media, turns[-1].text, answer or best, safety),
        turns=turns,
        responses=responses,
        media=media,
        reference_answer=answer,
        safety=safety,
        source=_text(row, "source"),
        split=split,
        ranking_reason=_text(row, "ranking_reason"),
        group=_group(row),
        clusters=_clusters(row),
    )


def row_from_query(query: Query) -> dict[str, Any]:
    """The release row of a record: `query_from_row` restores the record except for its media's digests."""
    row: dict[str, Any] = {
        "id": query.id,
        **turn_fields(query),
        "answer": query.reference_answer or "",
        **media_fields(query),
        "models_output": [response.text for response in query.responses],
        "faithfulness": [response.faithfulness for response in query.responses],
        "helpfulness": [response.helpfulness for response in query.responses],
        "ethical": [response.ethics for response in query.responses],
        "final_ranking": written_ranking([response.rank for response in query.responses], scored=_scored(query)),
        "score_reasons": [response.critique or "" for response in query.responses],
        "ranking_reason": query.ranking_reason or "",
        "category": query.category,
    }
    if query.safety is not None:
        row["safety"] = query.safety
    if query.source is not None:
        row["source"] = query.source
    if any(response.critique_source not in {None, HUMAN} for response in query.responses):
        row["critique_source"] = [response.critique_source or "" for response in query.responses]
    if query.group is not None:
        row["group"] = query.group
    if query.clusters:
        row["clusters"] = query.clusters
    return row


def _scored(query: Query) -> bool:
    return any(score is not None for item in query.responses for score in (item.faithfulness, item.helpfulness, item.ethics))


def infer_category(prompt: str, answer: str, kinds: Collection[Kind]) -> Category:
    """The category of a row without one (paper section 2): options make an mcq, else 128 characters divide short from long."""
    if "video" in kinds:
        return "video"
    for pattern in (_OPTION_LINE, _OPTION_INLINE):
        if {"A", "B"} <= set(pattern.findall(prompt)):
            return "mcq"
    return "long" if len(answer) > ANSWER_CHARACTERS_SHORT else "short"


def _identity(value: Any) -> str:
    if value is None or value == "":
        raise RowError("missing_field", "id", "is missing")
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # numbered rows are common in other people's data
    if not isinstance(value, str):
        raise wrong_type("id", value, "text")
    hidden = next((c for c in value if unicodedata.category(c) in {"Cc", "Cf", "Co", "Cn", "Zl", "Zp"}), None)
    if hidden is not None:
        raise RowError("id", "id", f"holds the invisible character U+{ord(hidden):04X}")
    if value != value.strip():
        raise RowError("id", "id", "begins or ends with a space")
    if len(value) > MAX_ID_CHARACTERS:
        raise RowError("id", "id", f"has {len(value)} characters, more than {MAX_ID_CHARACTERS}")
    return value


def _texts(value: Any) -> list[str]:
    if value is None:
        raise RowError("missing_field", "models_output", "is missing")
    if not isinstance(value, list):
        raise wrong_type("models_output", value, "a list of texts")
    for index, item in enumerate(value):
        if not isinstance(item, str):
            raise wrong_type(f"models_output[{index}]", item, "text")
        refuse_marks(f"models_output[{index}]", item)
    return value


def _scores(row: Mapping[str, Any], field: str, count: int) -> list[float | None]:
    scores: list[float | None] = []
    for index, item in enumerate(_list(row, field, count)):
        if item is None or item == "":
            scores.append(None)
            continue
        number = finite_number(item)
        if number is None:
            raise wrong_type(f"{field}[{index}]", item, "a number")
        if not LOWEST_SCORE <= number <= HIGHEST_SCORE:
            raise RowError("score", f"{field}[{index}]", f"{shorten(item)} is not between 1 and 5")
        scores.append(number)
    return scores


def _list_of_texts(row: Mapping[str, Any], field: str, count: int) -> list[str | None]:
    values = _list(row, field, count)
    for index, item in enumerate(values):
        if item is not None and not isinstance(item, str):
            raise wrong_type(f"{field}[{index}]", item, "text")
        refuse_marks(f"{field}[{index}]", item or "")
    return [item if item and not is_blank(item) else None for item in values]


def _list(row: Mapping[str, Any], field: str, count: int) -> list[Any]:
    value = row.get(field)
    if not _present(value):
        return [None] * count
    if not isinstance(value, list):
        raise wrong_type(field, value, "a list")
    if len(value) != count:
        raise RowError("length", field, f"has {len(value)} entries for {count} responses")
    return value


def _text(row: Mapping[str, Any], field: str) -> str | None:
    value = row.get(field)
    if value is not None and not isinstance(value, str):
        raise wrong_type(field, value, "text")
    return value or None


def _answer(row: Mapping[str, Any]) -> str | None:
    """The reference answer: a text or a number; of a list, as question sets with several annotators have it, the most frequent one."""
    value = row.get("answer")
    values = value if isinstance(value, list) else [value]
    answers = [str(item) if finite_number(item) is not None else item for item in values if item is not None]
    for answer in answers:
        if not isinstance(answer, str):
            raise wrong_type("answer", answer, "text or a number")
    return Counter(answers).most_common(1)[0][0] or None if answers else None


def _safety(row: Mapping[str, Any]) -> Literal["harmful", "harmless"] | None:
    value = _text(row, "safety")
    if value not in {None, "harmful", "harmless"}:
        raise RowError("safety", "safety", f"{shorten(value)} is neither 'harmful' nor 'harmless'")
    return cast('Literal["harmful", "harmless"] | None', value)


def _group(row: Mapping[str, Any]) -> str | None:
    value = row.get("group")
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else _text(row, "group")


def _clusters(row: Mapping[str, Any]) -> dict[str, str]:
    value = row.get("clusters")
    if not _present(value):
        return {}
    if not isinstance(value, dict):
        raise wrong_type("clusters", value, "an object of texts")
    for name, item in value.items():
        if not isinstance(item, str):
            raise wrong_type("clusters", item, f"text under {shorten(name)}")
    return {name: value[name] for name in sorted(value) if value[name]}


def _category(row: Mapping[str, Any], media: Sequence[Medium], prompt: str, answer: str, safety: str | None) -> Category:
    named = _text(row, "category")
    if named is not None:
        if named not in CATEGORIES:
            raise RowError("category", "category", f"{shorten(named)} is none of {', '.join(CATEGORIES)}")
        return named
    folder = media[0].path.split("/")[0] if media and "/" in media[0].path else None
    if folder in CATEGORIES:
        return folder
    return "safety" if safety else infer_category(prompt, answer, [medium.kind for medium in media])


def _present(value: Any) -> bool:
    return value is not None and value not in ("", [])
