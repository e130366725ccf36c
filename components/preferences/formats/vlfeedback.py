"""VLFeedback's rows: several models' `completions` of a `prompt` on one picture, each rated for three aspects with a rationale.

The ranking is by the mean of the ratings that a completion has, the higher the better; equal means tie. The parquet files hold `completions`
as one object of lists, the JSON Lines as a list of objects.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.preferences.faults import RowError, finite_number, wrong_type
from components.preferences.formats.pieces import (
    Answer,
    Medium,
    Message,
    Prompt,
    Ranked,
    Row,
    identity,
    lacks,
    media_of,
    plain_prompt,
    single_path,
    text_of,
)

ASPECTS = {"faithfulness": "Visual Faithfulness", "helpfulness": "Helpfulness", "ethics": "Ethical Considerations"}
PICTURES = ("image", "img", "img_path")
LOWEST, HIGHEST = 1, 5


class VlFeedback:
    """Format `vlfeedback`."""

    name = "vlfeedback"
    title = "VLFeedback's ratings (prompt, completions with annotations, img)"
    fields = frozenset({"id", "prompt", "completions", *PICTURES})
    own_paths = False

    def against(self, row: Row) -> str | None:
        """Completions have annotations."""
        if (missing := lacks(row, "prompt", "completions")) is not None:
            return missing
        if not isinstance(row["prompt"], str):
            return "prompt is no text"
        try:
            completions = _completions(row)
        except RowError as fault:
            return str(fault)
        return None if any(item.get("annotations") for item in completions) else "completions have no annotations"

    def read(self, row: Row) -> Ranked:
        """The ranking that the ratings' means give; the rationales as the answers' reasons."""
        rated: list[tuple[float, Answer]] = []
        completions = _completions(row)
        for index, item in enumerate(completions):
            response = item.get("response")
            if not isinstance(response, str):
                raise wrong_type(f"completions[{index}].response", response, "text")
            annotations = item.get("annotations")
            notes = {name: _note(annotations, aspect) for name, aspect in ASPECTS.items()}
            scores = {name: score for name, (score, _) in notes.items()}
            present = [score for score in scores.values() if score is not None]
            if present:
                reason = "\n".join(f"{ASPECTS[name]}: {text}" for name, (_, text) in notes.items() if text)
                rated.append((sum(present) / len(present), Answer(response, 0, **scores, reason=reason)))
        if not rated:
            raise RowError("missing_field", "completions", "have no rating")
        means = [mean for mean, _ in rated]
        answers = tuple(
            Answer(
                answer.text, 1 + sum(other > mean for other in means), answer.faithfulness, answer.helpfulness, answer.ethics, answer.reason
            )
            for mean, answer in rated
        )
        return Ranked(_prompt(row), answers, unrated=len(completions) - len(rated))

    def write(self, ranked: Ranked) -> list[dict[str, Any]]:
        """One row. Raises RowError where the scores' means don't give the ranking, which would turn pairs round."""
        prompt, path = plain_prompt(ranked.prompt, self.name), single_path(ranked.prompt, self.name)
        means = [_mean(answer) for answer in ranked.answers]
        if any(mean is None for mean in means):
            raise RowError("score", "faithfulness", "is missing like the other scores of an answer, and this format ranks by scores")
        ranks = [answer.rank for answer in ranked.answers]
        for mean, rank in zip(means, ranks, strict=True):
            if any((mean > other) != (rank < other_rank) for other, other_rank in zip(means, ranks, strict=True)):  # type: ignore[operator]
                raise RowError("ranking", "final_ranking", "is not the order of the scores' means, by which this format ranks")
        completions = [{"model": "", "response": answer.text, "annotations": _annotations(answer)} for answer in ranked.answers]
        return [{"id": ranked.prompt.id, "prompt": prompt, "img": path, "models": [], "completions": completions}]


def _prompt(row: Row) -> Prompt:
    media: tuple[Medium, ...] = next(filter(None, (media_of(row, field, "image") for field in PICTURES)), ())
    return Prompt((Message("user", text_of(row, "prompt")),), media, identity(row), "VLFeedback")


def _completions(row: Row) -> list[Mapping[str, Any]]:
    value = row.get("completions")
    if isinstance(value, Mapping):  # an object of lists
        responses = value.get("response")
        if not isinstance(responses, list):
            raise wrong_type("completions.response", responses, "a list")
        annotations = value.get("annotations")
        annotations = annotations if isinstance(annotations, list) and len(annotations) == len(responses) else [None] * len(responses)
        return [{"response": text, "annotations": notes} for text, notes in zip(responses, annotations, strict=True)]
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        raise wrong_type("completions", value, "a list of objects")
    return value


def _note(annotations: Any, aspect: str) -> tuple[float | None, str]:
    note = annotations.get(aspect) if isinstance(annotations, Mapping) else None
    if not isinstance(note, Mapping):
        return None, ""
    score, text = finite_number(note.get("Rating")), note.get("Rationale")
    return score if score is not None and LOWEST <= score <= HIGHEST else None, text if isinstance(text, str) else ""


def _mean(answer: Answer) -> float | None:
    present = [score for score in (answer.faithfulness, answer.helpfulness, answer.ethics) if score is not None]
    return sum(present) / len(present) if present else None


def _annotations(answer: Answer) -> dict[str, dict[str, str]]:
    notes: dict[str, dict[str, str]] = {}
    for name, aspect in ASPECTS.items():
        score: float | None = getattr(answer, name)
        prefix = f"{aspect}: "
        text = next((line.removeprefix(prefix) for line in answer.reason.split("\n") if line.startswith(prefix)), "")
        notes[aspect] = {"Rating": "N/A" if score is None else f"{score:g}", "Rationale": text}
    return notes
