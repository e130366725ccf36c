"""The reward model as MLflow serves it: rows of prompt, image and response in, a critique and a score a row out.

A model that was trained without critiques scores a response alone: its critiques are null, and it takes no max_new_tokens.

A model from code: MLflow runs this file, copied beside the weights, and loads the weights from the safetensors next to it. No pickle.

    model = mlflow.pyfunc.load_model("models:/mm-reward@champion")
    model.predict(pandas.DataFrame({"prompt": ["What is this?"], "image": [Path("cat.png").read_bytes()], "response": ["A cat."]}))
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pandas as pd

import mlflow


class CritiqueRewardModel(mlflow.pyfunc.PythonModel):
    """Writes a critique of each response and scores the response under it, as the stage `critique` does."""

    def load_context(self, context: Any) -> None:
        """Load the weights and the score head, on a GPU if the machine has one."""
        import torch

        from components.registry.model_input import RowPreprocessor
        from components.reward.model import load_reward_model

        folder = Path(context.artifacts["model"])
        settings = context.model_config
        self._instruction = str(settings["instruction"])
        self._batch_size = int(settings["batch_size"])
        self._max_new_tokens = int(settings["max_new_tokens"])
        self._preprocessor = RowPreprocessor(
            folder,
            attention=settings["attention"],
            max_length=settings["max_length"],
            max_frames=settings["max_frames"],
            background=settings["background"],
        )
        self._reward = load_reward_model(folder, settings["attention"]).to("cuda" if torch.cuda.is_available() else "cpu")
        self._one_call = threading.Lock()

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:  # noqa: ARG002
        """Judge each row. `params`: max_new_tokens of the critique. Scores of one prompt compare; those of two prompts do not."""
        from components.generation.critiques import write_critiques
        from components.registry.model_input import BadRequest, texts, token_limit
        from components.reward.scoring import Judged, score

        limit = token_limit(params, self._max_new_tokens, self._preprocessor.max_length)
        writes = self._reward.writes_critiques
        if params and not writes:
            raise BadRequest(f"this model was trained without critiques, so it writes no tokens: leave out {', '.join(sorted(params))}")
        preprocessor = self._preprocessor
        responses = list(texts(model_input, "response"))
        with self._one_call:
            try:
                items = list(zip(preprocessor.queries(model_input), responses, strict=True))
                preprocessor.check_responses(items, self._instruction)
                critiques: list[str | None] = [None] * len(items)
                if writes:
                    critiques[:] = write_critiques(
                        self._reward.model,
                        preprocessor,
                        items,
                        instruction=self._instruction,
                        max_new_tokens=limit,
                        batch_size=self._batch_size,
                    )
                judged = [Judged(query, response, critique) for (query, response), critique in zip(items, critiques, strict=True)]
                scores = score(self._reward, preprocessor, judged, instruction=self._instruction)
            finally:
                preprocessor.forget()
        return pd.DataFrame({"critique": pd.Series(critiques, dtype="object"), "score": pd.Series(scores, dtype="float64")})


mlflow.models.set_model(CritiqueRewardModel())
