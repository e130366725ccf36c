"""Counts the tokens of a query for the policy and the judge, without processing every image.

- A medium's number of placeholders depends only on its size and number of frames: the family's processor runs once for each size.
- The judge's prompt adds the same number of tokens to every policy prompt, up to one token at the border of two texts.
- So most queries need one tokenization of each text. Near the limit, and for the longest query, the processor itself counts.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from components.preferences.faults import RowError
from components.preferences.record import Query
from components.validation.media import Medium

if TYPE_CHECKING:
    from components.families.processing import Preprocessor

EXACT_WITHIN_TOKENS = 8


class LengthCheck:
    """Refuses queries longer than `max_length` tokens, and texts with special tokens of the model."""

    def __init__(self, preprocessor: Preprocessor, instruction: str, max_length: int) -> None:
        self._preprocessor = preprocessor
        self._instruction = instruction
        self._max_length = max_length
        self._special = preprocessor.media_tokens()
        self._between = len(preprocessor.judge_ids(""))
        self._judge_adds: int | None = None
        self._media_tokens: dict[tuple[str, int, int, int], int] = {}
        self.longest = 0

    def check(self, query: Query, medium: Medium | None) -> None:
        """Raises RowError when a text contains a special token, or a branch does not fit."""
        self._refuse_special("question", query.prompt)
        for index, response in enumerate(query.responses):
            self._refuse_special(f"models_output[{index}]", response.text)
            self._refuse_special(f"score_reasons[{index}]", response.critique or "")
        responses = [len(self._preprocessor.response_ids(response.text)) for response in query.responses]
        critiques = [len(self._preprocessor.critique_ids(response.critique or "")) for response in query.responses]
        branches = self._branches(*self._estimate(query, medium), responses, critiques)
        if branches[0][0] > min(self.longest, self._max_length - EXACT_WITHIN_TOKENS):
            branches = self._branches(*self._preprocessor.root_tokens(query, self._instruction), responses, critiques)
        longest, what = branches[0]
        if longest > self._max_length:
            raise RowError("too_long", "question", f"takes {longest} tokens as {what}, more than model.max_length {self._max_length}")
        self.longest = max(self.longest, longest)

    def _branches(self, policy: int, judge: int, responses: list[int], critiques: list[int]) -> list[tuple[int, str]]:
        """Tokens of the policy's and the judge's longest branch with its root, each with its description; the longer one first."""
        at_policy = max(range(len(responses)), key=lambda index: responses[index])
        at_judge = max(range(len(responses)), key=lambda index: responses[index] + critiques[index])
        judged = (
            judge + responses[at_judge] - 1 + self._between + critiques[at_judge]
        )  # the policy's branch ends with a token that this lacks
        return sorted(
            [
                (policy + responses[at_policy], f"a prompt of {policy} with response {at_policy}"),
                (judged, f"a judge's prompt of {judge} with response {at_judge} and its reason"),
            ],
            reverse=True,
        )

    def _estimate(self, query: Query, medium: Medium | None) -> tuple[int, int]:
        """Tokens of the policy's and the judge's root, exact to a few tokens."""
        policy = self._text_tokens(query)
        if self._judge_adds is None:
            text_policy, text_judge = self._preprocessor.root_tokens(_without_media(query), self._instruction)
            self._judge_adds = text_judge - text_policy
        if medium is not None:
            size = (query.media_kind or "", medium.width, medium.height, medium.frames)
            if size not in self._media_tokens:
                self._media_tokens[size] = self._processed_tokens(query, medium) - policy
            policy += self._media_tokens[size]
        return policy, policy + self._judge_adds

    def _text_tokens(self, query: Query) -> int:
        return len(self._preprocessor.policy_root(_without_media(query)).input_ids)

    def _processed_tokens(self, query: Query, medium: Medium) -> int:
        try:
            return len(self._preprocessor.policy_root(query).input_ids)
        except (ValueError, ArithmeticError, RuntimeError) as error:
            reason = f"the base's processor cannot take {medium.width} x {medium.height} pixels"
            raise RowError("media_undecodable", query.media_kind or "", reason) from error

    def _refuse_special(self, field: str, text: str) -> None:
        special = next((token for token in self._special if token in text), None)
        if special is not None:
            raise RowError("special_token", field, f"holds {special!r}, a token of the model's own structure")


def _without_media(query: Query) -> Query:
    return replace(query, media=None, media_kind=None, media_digest=None)
