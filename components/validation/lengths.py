"""Tokens of a query as the policy and the judge will see it, without processing every image.

How many placeholders a medium takes depends on its size and number of frames alone, so the family's processor runs once for each size,
while the text is tokenised for every query. Close to the limit, where a token at the seam of text and medium could decide, the processor
itself counts.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from components.preferences.faults import RowError
from components.preferences.record import Query
from components.validation.media import Medium

if TYPE_CHECKING:
    from components.vlm.processing import Preprocessor

EXACT_WITHIN_TOKENS = 8


class LengthCheck:
    """Refuses queries that don't fit `max_length` tokens, and texts that hold tokens of the model's own structure."""

    def __init__(self, preprocessor: Preprocessor, instruction: str, max_length: int) -> None:
        self._preprocessor = preprocessor
        self._instruction = instruction
        self._max_length = max_length
        self._special = preprocessor.media_tokens()
        self._media_tokens: dict[tuple[str, int, int, int], int] = {}
        self.longest = 0

    def check(self, query: Query, medium: Medium | None) -> None:
        """Raises RowError when a text holds a special token, or a branch does not fit."""
        self._refuse_special("question", query.prompt)
        for index, response in enumerate(query.responses):
            self._refuse_special(f"models_output[{index}]", response.text)
            self._refuse_special(f"score_reasons[{index}]", response.critique or "")
        policy, judge = self._root_tokens(query, medium)
        branches = self._branches(query, policy, judge)
        longest = max(tokens for tokens, _ in branches)
        if medium is not None and abs(longest - self._max_length) <= EXACT_WITHIN_TOKENS:
            policy, judge = self._preprocessor.root_tokens(query, self._instruction)
            branches = self._branches(query, policy, judge)
            longest = max(tokens for tokens, _ in branches)
        if longest > self._max_length:
            tokens, what = max(branches)
            raise RowError("too_long", "question", f"takes {tokens} tokens as {what}, more than model.max_length {self._max_length}")
        self.longest = max(self.longest, longest)

    def _branches(self, query: Query, policy: int, judge: int) -> list[tuple[int, str]]:
        """Tokens of every branch with its root, and what the branch is."""
        rows = []
        for index, response in enumerate(query.responses):
            rows.append((policy + len(self._preprocessor.response_ids(response.text)), f"a prompt of {policy} with response {index}"))
            critique = self._preprocessor.critique_ids(response.critique or "")
            judged = judge + len(self._preprocessor.judge_ids(response.text)) + len(critique)
            rows.append((judged, f"a judge's prompt of {judge} with response {index} and its reason"))
        return rows

    def _root_tokens(self, query: Query, medium: Medium | None) -> tuple[int, int]:
        text = replace(query, media=None, media_kind=None, media_digest=None)
        policy, judge = self._preprocessor.root_tokens(text, self._instruction)
        if medium is None:
            return policy, judge
        size = (query.media_kind or "", medium.width, medium.height, medium.frames)
        if size not in self._media_tokens:
            try:
                self._media_tokens[size] = len(self._preprocessor.policy_root(query).input_ids) - policy
            except (ValueError, ArithmeticError, RuntimeError) as error:
                raise RowError(
                    "media_undecodable", query.media_kind or "", f"the base's processor cannot take {medium.width} x {medium.height} pixels"
                ) from error
        return policy + self._media_tokens[size], judge + self._media_tokens[size]

    def _refuse_special(self, field: str, text: str) -> None:
        found = next((token for token in self._special if token in text), None)
        if found is not None:
            raise RowError("special_token", field, f"holds {found!r}, a token of the model's own structure")
