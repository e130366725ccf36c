"""Counts the tokens of a query for the policy and the judge as training and inference do: from outlines, without its pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from components.errors import UserError
from components.preferences.faults import RowError
from components.preferences.record import Query

if TYPE_CHECKING:
    from components.families.processing import Preprocessor


class LengthCheck:
    """Refuses queries longer than `max_length` tokens, and texts with special tokens of the model."""

    def __init__(self, preprocessor: Preprocessor, instruction: str, max_length: int) -> None:
        # A template that can't write a question stops the stage, not each row.
        preprocessor.policy_length(Query.single("", "short", "?", ()))
        self._preprocessor = preprocessor
        self._instruction = instruction
        self._max_length = max_length
        self._special = preprocessor.media_tokens()
        self._between = len(preprocessor.judge_ids(""))

    def check(self, query: Query) -> int:
        """Tokens of the query's longest branch with its root. Raises RowError when a text contains a special token, or a branch does not fit."""
        for number, turn in enumerate(query.turns):
            self._refuse_special("question" if len(query.turns) == 1 else f"turns[{number}]", turn.text)
        for index, response in enumerate(query.responses):
            self._refuse_special(f"models_output[{index}]", response.text)
            self._refuse_special(f"score_reasons[{index}]", response.critique or "")
        responses = [len(self._preprocessor.response_ids(response.text)) for response in query.responses]
        critiques = [len(self._preprocessor.critique_ids(response.critique or "")) for response in query.responses]
        longest, what = self._branches(*self._roots(query), responses, critiques)[0]
        if longest > self._max_length:
            raise RowError("too_long", "question", f"takes {longest} tokens as {what}, more than model.max_length {self._max_length}")
        return longest

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

    def _roots(self, query: Query) -> tuple[int, int]:
        """Tokens of the policy's and the judge's root."""
        try:
            return self._preprocessor.policy_length(query), self._preprocessor.judge_length(query, self._instruction)
        except UserError as error:  # the template refuses this conversation
            reason = str(error).replace(f"the chat template of {self._preprocessor.base}", "the base's chat template")
            raise RowError("turns", "question" if len(query.turns) == 1 else "turns", reason) from error
        except (ValueError, ArithmeticError, RuntimeError) as error:
            sizes = [self._preprocessor.media_size(medium)[:2] for medium in query.media]
            reason = f"the base's processor cannot take {' and '.join(f'{width} x {height}' for width, height in sizes)} pixels"
            raise RowError("media_undecodable", query.media[0].kind if query.media else "", reason) from error

    def _refuse_special(self, field: str, text: str) -> None:
        special = next((token for token in self._special if token in text), None)
        if special is not None:
            raise RowError("special_token", field, f"holds {special!r}, a token of the model's own structure")
