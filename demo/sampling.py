"""Answers of the base to the data set's questions, through the pipeline's own preprocessing and generation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from components.config.features import FeatureSettings
from components.config.model import ModelSettings
from components.families.loading import load_model
from components.families.processing import Preprocessor
from components.generation.generate import generate
from components.preferences.record import Query

MAX_NEW_TOKENS = 96
BATCH = 128
THREADS = 1  # two builds are equal only with the same number of threads
SAMPLED, TEMPERATURE = 2, 1.0  # beside the greedy answer


def sample_answers(base: Path, preferences: Path, queries: Sequence[Query]) -> list[list[str]]:
    """The greedy answer and two sampled answers to each query. Media paths are relative to the folder `preferences`."""
    threads = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        model = load_model(base)
        settings = ModelSettings(base=base, attention="sdpa", max_length=512, max_frames=8)
        preprocessor = Preprocessor(base, preferences, settings, FeatureSettings(pixels_max_gb=1.0))
        roots = [preprocessor.policy_root(query) for query in queries]
        texts: list[list[str]] = [[] for _ in queries]
        for seed in range(1 + SAMPLED):
            outputs = generate(
                model,
                roots,
                [[] for _ in roots],
                max_new_tokens=MAX_NEW_TOKENS,
                batch_size=BATCH,
                end_id=preprocessor.end_id,
                temperature=TEMPERATURE if seed else 0.0,
                seed=seed,
            )
            for text, tokens in zip(texts, outputs, strict=True):
                text.append(preprocessor.tokenizer.decode(tokens))
    finally:
        torch.set_num_threads(threads)
    return texts
