"""The policy as MLflow serves it: rows of prompt and image in, one greedy answer a row out.

A model from code: MLflow runs this file, copied beside the weights, and loads the weights from the safetensors next to it. No pickle.

    model = mlflow.pyfunc.load_model("models:/mm-policy@champion")
    model.predict(pandas.DataFrame({"prompt": ["What is this?"], "image": [Path("cat.png").read_bytes()]}))
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pandas as pd

import mlflow


class PolicyModel(mlflow.pyfunc.PythonModel):
    """Answers as the stage `evaluate` does: greedy, in fp32, from the same processor."""

    def load_context(self, context: Any) -> None:
        """Load the weights, on a GPU if the machine has one."""
        import torch

        from components.families.loading import load_model
        from components.registry.model_input import RowPreprocessor

        folder = Path(context.artifacts["model"])
        settings = context.model_config
        self._batch_size = int(settings["batch_size"])
        self._max_new_tokens = int(settings["max_new_tokens"])
        self._preprocessor = RowPreprocessor(
            folder,
            attention=settings["attention"],
            max_length=settings["max_length"],
            max_frames=settings["max_frames"],
            background=settings["background"],
        )
        self._model = load_model(folder, attention=settings["attention"]).to("cuda" if torch.cuda.is_available() else "cpu")
        self._one_call = threading.Lock()

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:  # noqa: ARG002
        """Answer each row. `params`: max_new_tokens."""
        from components.generation.decoding import decode
        from components.registry.model_input import token_limit

        limit = token_limit(params, self._max_new_tokens, self._preprocessor.max_length)
        preprocessor = self._preprocessor
        with self._one_call:
            try:
                queries = preprocessor.queries(model_input)
                tokens = decode(
                    self._model,
                    [preprocessor.policy_root(query) for query in queries],
                    [[] for _ in queries],
                    max_new_tokens=limit,
                    batch_size=self._batch_size,
                    end_id=preprocessor.end_id,
                )
            finally:
                preprocessor.forget()
        answers = [str(preprocessor.tokenizer.decode(ids, skip_special_tokens=True)) for ids in tokens]
        return pd.DataFrame({"answer": pd.Series(answers, dtype="object")})


mlflow.models.set_model(PolicyModel())
