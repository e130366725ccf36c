"""The MM-RLHF release's `data.jsonl`: all answers to a question, ranked. A row comes in and goes out as it is."""

from __future__ import annotations

from typing import Any

from components.preferences.formats.pieces import Answer, Medium, Message, Prompt, Ranked, Row, identity, lacks, media_of, turns_of
from components.preferences.ranking import parse_ranking, written_ranking
from components.preferences.release import READ_FIELDS

QUESTION_FIELDS = ("question", "conversations", "messages")  # one of them holds the turns


class MmRlhf:
    """Format `mm_rlhf`."""

    name = "mm_rlhf"
    title = "the MM-RLHF release's ranked rows (models_output, final_ranking)"
    fields = READ_FIELDS | {"conversations", "messages", "group", "clusters"}
    own_paths = True

    def against(self, row: Row) -> str | None:
        """A row has ranked answers, and a question."""
        missing = lacks(row, "models_output", "final_ranking")
        if missing is None and all(row.get(field) is None for field in QUESTION_FIELDS):
            missing = "question missing"
        return missing

    def read(self, row: Row) -> Ranked:
        """Reads what pairs need; the row itself is what data.jsonl gets, and validation checks the rest of it."""
        texts = row.get("models_output")
        texts = texts if isinstance(texts, list) and all(isinstance(text, str) for text in texts) else []
        ranks = parse_ranking(row.get("final_ranking"), len(texts))
        reasons = row.get("score_reasons")
        reasons = reasons if isinstance(reasons, list) and len(reasons) == len(texts) else [""] * len(texts)
        answers = tuple(
            Answer(
                text,
                rank,
                _score(row, "faithfulness", index),
                _score(row, "helpfulness", index),
                _score(row, "ethical", index),
                reason or "",
            )
            for index, (text, rank, reason) in enumerate(zip(texts, ranks, reasons, strict=True))
        )
        return Ranked(prompt_of(row), answers, row)

    def write(self, ranked: Ranked) -> list[dict[str, Any]]:
        """The row of data.jsonl."""
        return [dict(ranked.row)] if ranked.row is not None else [row_of(ranked)]


def prompt_of(row: Row) -> Prompt:
    """The prompt of a row of data.jsonl. Raises RowError."""
    media = (*media_of(row, "image", "image"), *media_of(row, "video", "video"))
    inside: tuple[Medium, ...] = ()
    if row.get("messages") is not None:
        turns, inside = turns_of(row["messages"], "messages")
    elif row.get("conversations") is not None:
        turns, inside = turns_of(row["conversations"], "conversations", ("from", "value"))
    else:
        turns = (Message("user", str(row.get("question") or "")),)
    source, category = (value if isinstance(value := row.get(field), str) and value else None for field in ("source", "category"))
    return Prompt(turns, media or inside, identity(row), source, category)


def row_of(ranked: Ranked) -> dict[str, Any]:
    """A row of data.jsonl. One user turn is its `question`; more turns are its `messages`."""
    prompt, answers = ranked.prompt, ranked.answers
    images = [medium.path or "" for medium in prompt.media if medium.kind == "image"]
    videos = [medium.path or "" for medium in prompt.media if medium.kind == "video"]
    row: dict[str, Any] = {"id": prompt.id}
    if len(prompt.turns) == 1:
        row["question"] = prompt.turns[0].text
    else:
        row["messages"] = [{"role": message.role, "content": message.text} for message in prompt.turns]
    row |= {"answer": "", "image": _one_or_all(images), "video": _one_or_all(videos), "models_output": [answer.text for answer in answers]}
    for field, scores in (
        ("faithfulness", [answer.faithfulness for answer in answers]),
        ("helpfulness", [answer.helpfulness for answer in answers]),
        ("ethical", [answer.ethics for answer in answers]),
    ):
        row[field] = scores if any(score is not None for score in scores) else []
    scored = any(row[field] for field in ("faithfulness", "helpfulness", "ethical"))
    row |= {"final_ranking": written_ranking([answer.rank for answer in answers], scored=scored)}
    row["score_reasons"] = [answer.reason for answer in answers] if any(answer.reason for answer in answers) else []
    row["ranking_reason"] = ""
    row |= {name: value for name, value in (("category", prompt.category), ("source", prompt.source)) if value}
    return row


def _one_or_all(values: list[str]) -> str | list[str]:
    return values if len(values) > 1 else "".join(values)


def _score(row: Row, field: str, index: int) -> float | None:
    value = row.get(field)
    item = value[index] if isinstance(value, list) and index < len(value) else None
    return float(item) if isinstance(item, int | float) and not isinstance(item, bool) else None
