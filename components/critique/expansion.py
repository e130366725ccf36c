"""Expands the rows' short reasons into critiques by a server, into a file that is versioned with the data.

It is a command and no stage: an outside model gives other texts on another day, and costs money. So people run it, read the result and
version it; `dvc repro` then needs no network and gives the same bytes. Answers are cached as they come: a stopped command goes on.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from components.checkout import Checkout
from components.config.settings import Settings
from components.critique import expansion_prompt as prompt
from components.critique.languages import Language, differs, language_of
from components.endpoints.client import Client, Estimate
from components.endpoints.pictures import fitting_picture
from components.endpoints.request import Answer, Picture, Refusal, Request
from components.errors import UserError
from components.files import write_atomic
from components.preferences.bounds import MediaError
from components.preferences.expansions import FILE, Expansion, source_digest, write_expansions
from components.preferences.faults import RowError
from components.preferences.frames import frame_names
from components.preferences.media import locate
from components.preferences.record import Medium, Query, Response
from components.preferences.release import HUMAN, query_from_row
from components.storage.content_cache import ContentCache

MAX_TOKENS = 400  # of an expansion
FRAMES = 4  # of a video, that are shown
GOOD_FROM, BAD_TO = 4.0, 2.0  # mean score on the scale of 1 to 5: from here on good, up to here bad
MEGABYTE = 1_000_000
QUARANTINE = "expanded-quarantine.jsonl"


@dataclass(frozen=True)
class Reason:
    """A response with its short reason, which no model wrote."""

    query: Query
    index: int

    @property
    def response(self) -> Response:
        """The response."""
        return self.query.responses[self.index]


@dataclass
class Expanded:
    """What came of the reasons: expansions, and those that failed a check, with its name and what it saw."""

    expansions: list[Expansion] = field(default_factory=list)
    quarantined: list[tuple[Reason, str, str]] = field(default_factory=list)

    def counts(self) -> Counter[str]:
        """Quarantined reasons by the check that they failed."""
        return Counter(kind for _, kind, _ in self.quarantined)


class Expander:
    """Expands the reasons in data/preferences/data.jsonl by the server `endpoint.expansion`."""

    def __init__(self, settings: Settings, checkout: Checkout) -> None:
        self._checkout, self._max_bytes = checkout, int(settings.endpoint.max_image_mb * MEGABYTE)
        self._background = settings.model.background
        self.client = Client("expansion", settings.endpoint.expansion.model, settings.endpoint, ContentCache(checkout, "endpoints"))
        self._media: dict[str, tuple[Picture, ...]] = {}  # digested once for all responses
        self.reasons = read_reasons(checkout.preferences / "data.jsonl")
        self._requests = [self._request(reason) for reason in self.reasons]

    def estimate(self) -> Estimate:
        """What it will cost at most."""
        return self.client.estimate(self._requests)

    def expand(self) -> Expanded:
        """Ask, check, and write expanded.jsonl and expanded-quarantine.jsonl beside the rows."""
        outcomes = self.client.complete(self._requests, "expansions", "reason")
        result = Expanded()
        usual = language_of(" ".join(reason.response.critique or "" for reason in self.reasons))
        for reason, outcome in zip(self.reasons, outcomes, strict=True):
            critique, fault = check(reason, outcome, usual)
            if fault is not None:
                result.quarantined.append((reason, *fault))
                continue
            source = source_digest(reason.query, reason.response)
            result.expansions.append(
                Expansion(reason.query.id, reason.index, source, critique, prompt.VERSION, prompt.DIGEST, self.client.model)
            )
        folder = self._checkout.preferences
        write_expansions(folder / FILE, result.expansions)
        rows = (
            {"id": reason.query.id, "response": reason.index, "check": kind, "saw": seen, "reason": reason.response.critique}
            for reason, kind, seen in result.quarantined
        )
        write_atomic(folder / QUARANTINE, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        return result

    def _request(self, reason: Reason) -> Request:
        return Request.asking(
            prompt.prompt_for(reason.query, reason.response),
            MAX_TOKENS,
            self._pictures_of(reason.query),
            system=prompt.SYSTEM,
            identity=prompt.DIGEST,
        )

    def _pictures_of(self, query: Query) -> tuple[Picture, ...]:
        for medium in query.media:
            if medium.path not in self._media:
                self._media[medium.path] = tuple(self._pictures(query.id, medium))
        return tuple(picture for medium in query.media for picture in self._media[medium.path])

    def _pictures(self, identity: str, medium: Medium) -> Iterator[Picture]:
        path = locate(self._checkout.preferences, medium.path)
        files = [path] if medium.kind == "image" else _frames(path)
        for file in files:
            try:
                yield fitting_picture(file, self._max_bytes, self._background)
            except MediaError as error:
                hint = "run `mmalign run --only validate` for all such rows"
                raise UserError(f"{identity} names {medium.path}, which can't be read ({error}): {hint}") from error


def read_reasons(path: Path) -> list[Reason]:
    """Every response with a short reason that no model wrote, of the rows that are usable. Raises UserError where there is none."""
    if not path.is_file():
        raise UserError(f"{path} is missing: put one JSON object a row there (docs/data-format.md)")
    reasons: list[Reason] = []
    for line in path.read_bytes().split(b"\n"):
        try:
            row = json.loads(line) if line.strip() else None
            if not isinstance(row, dict):
                continue
            query = query_from_row(row)
        except (RowError, ValueError, RecursionError):
            continue  # validate reports it with its line
        reasons += [Reason(query, index) for index, r in enumerate(query.responses) if r.critique and r.critique_source == HUMAN]
    if not reasons:
        raise UserError(f"{path} holds no reason (score_reasons whose critique_source is {HUMAN} or not named): there is nothing to expand")
    return reasons


def check(reason: Reason, outcome: Answer | Refusal, usual: Language) -> tuple[str, tuple[str, str] | None]:
    """The critique, and the check that it failed with what that saw; None if it passed all. `usual` is the language of most reasons."""
    if isinstance(outcome, Refusal):
        return "", ("refused", outcome.reason)
    critique, verdict = prompt.parse(outcome.text)
    scored = scored_verdict(reason.response)
    if not critique:
        return "", ("empty", outcome.finish)
    if outcome.finish != "stop":
        return critique, ("cut", outcome.finish)
    if verdict is None:
        return critique, ("no_verdict", outcome.text[-60:])
    if differs(critique, [reason.response.critique or "", reason.query.prompt], usual):
        return critique, ("language", critique[:60])
    if {verdict, scored} == {"good", "bad"}:
        return critique, ("against_the_score", f"{verdict}, but its scores say {scored}")
    return critique, None


def scored_verdict(response: Response) -> str | None:
    """good, mixed or bad, by the lowest and the mean of the row's scores; None without scores.

    One low score, such as an unfaithful answer in a helpful tone, keeps an answer from being good.
    """
    scores = [score for score in (response.faithfulness, response.helpfulness, response.ethics) if score is not None]
    if not scores:
        return None
    if sum(scores) / len(scores) >= GOOD_FROM and min(scores) >= GOOD_FROM:
        return "good"
    return "bad" if min(scores) <= BAD_TO else "mixed"


def _frames(folder: Path) -> Sequence[Path]:
    frames = [folder / name for name in frame_names(folder)] if folder.is_dir() else [folder]
    step = max(1, len(frames) // FRAMES)
    return frames[::step][:FRAMES]
