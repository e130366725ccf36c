"""A checkout with as many validated queries as one likes: distinct pictures, texts, critiques, and what alignment reads beside them.

The base is a random LLaVA-OneVision with a token a character. Pictures have `SIZES` different sizes; all their features are cached.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks._harness import ROOT
from benchmarks._models import END, TRIAL, build_model, build_processor
from benchmarks._scale_ranks import STEPS
from components.alignment.reference_table import write_log_probs
from components.checkout import Checkout
from components.config.overrides import write_settings
from components.config.settings import Settings, load_settings
from components.critique.stage import write_judgements
from components.families.processing import Preprocessor
from components.families.token_table import TokenTable, open_tokens
from components.features.cache import attach_features
from components.preferences.query_table import QueryTable, open_queries
from components.preferences.record import Medium, Query, Response, write_queries
from components.trees.scoring import policy_tree, score_batches

SIZES = 40
RESPONSES = 4
PROBED = 8  # queries whose reference log-probs are the base's; alignment computes the first ones again
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}<{{ part['type'] }}>{% endif %}{% endfor %}"
    + END
    + "\n{% endfor %}{% if add_generation_prompt %}assistant\n{% endif %}"
)


def save_base(folder: Path) -> None:
    """The base model, with its processor and chat template."""
    processor = build_processor(TRIAL.side)
    processor.chat_template = TEMPLATE
    build_model(TRIAL, processor).save_pretrained(folder)
    processor.save_pretrained(folder)


def save_settings(root: Path) -> Settings:
    """The bundled settings with this base, two ranks of one thread and three steps."""
    values = load_settings(ROOT / "params.yaml").model_dump(mode="json", by_alias=True)
    values["model"]["base"] = "data/base"
    values["training"] |= {"ranks": 2, "threads": 1}
    values["features"]["max_gb"] = 50.0
    values["reward"] |= {"max_steps": STEPS, "critique_source": "annotated"}
    values["alignment"]["max_steps"] = STEPS
    write_settings(root / "params.yaml", values)
    shutil.copytree(ROOT / "infra/deepspeed", root / "infra/deepspeed", dirs_exist_ok=True)
    return load_settings(root / "params.yaml")


def save_pictures(folder: Path, count: int) -> None:
    """`count` different pictures of SIZES sizes."""
    draw = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for number in range(count):
        width, height = size_of(number)
        pixels = draw.integers(0, 255, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        Image.fromarray(pixels[:height, :width]).save(folder / f"{number}.png", compress_level=1)


def size_of(number: int) -> tuple[int, int]:
    """Width and height of a picture."""
    return 24 + number % SIZES, 64 - number % SIZES // 2


def queries(count: int, pictures: int) -> Iterator[Query]:
    """Ranked queries, each about one of the pictures, no two texts alike."""
    draw = np.random.default_rng(1)
    for number in range(count):
        picture = number % pictures
        words = [" ".join(map(str, draw.integers(100, 999, draw.integers(4, 14)))) for _ in range(RESPONSES)]
        yield Query.single(
            f"query-{number}",
            "short",
            f"What is number {number} of the {count} pictures about?",
            tuple(Response(f"{number}: {text}", rank, critique=f"It says {text}.") for rank, text in enumerate(words, 1)),
            Medium(f"pictures/{picture}.png", "image", f"{picture:064x}", (*size_of(picture), 1)),
        )


def rows(count: int, pictures: int) -> Iterator[str]:
    """The same queries as rows of data.jsonl."""
    for query in queries(count, pictures):
        row: dict[str, Any] = {
            "id": query.id,
            "question": query.prompt,
            "image": query.media[0].path,
            "models_output": [response.text for response in query.responses],
            "score_reasons": [response.critique for response in query.responses],
            "final_ranking": [response.rank for response in query.responses],
        }
        yield json.dumps(row) + "\n"


def save_queries(checkout: Checkout, count: int, pictures: int) -> None:
    """The validated training queries, and one held-out query."""
    write_queries(checkout.queries("train"), list(queries(count, pictures)))
    write_queries(checkout.queries("heldout"), list(queries(1, pictures)))


def save_tables(settings: Settings, checkout: Checkout) -> int:
    """Fill the features, and write critiques and reference log-probs of the training queries. Returns the tokens of all trees."""
    base, table = checkout.root / settings.model.base, open_queries(checkout, "train")
    preprocessor = Preprocessor(base, checkout.preferences, settings.model, settings.features)
    attach_features(preprocessor, base, table, settings, checkout)
    tokens = open_tokens(checkout, preprocessor, table, settings.reward.instruction)
    draw = np.random.default_rng(2)
    write_judgements(checkout.critiques("train"), table, [[("", float(score)) for score in draw.normal(size=RESPONSES)] for _ in table])
    write_log_probs(checkout.reference("train"), table, list(_log_probs(settings, preprocessor, table, tokens)))
    return int(tokens.policy_tokens().sum())


def _log_probs(settings: Settings, preprocessor: Preprocessor, table: QueryTable, tokens: TokenTable) -> Iterator[list[tuple[float, int]]]:
    """The base's for the first queries; for the others any number with the right number of tokens."""
    from components.families.loading import load_model

    trees = [policy_tree(preprocessor, query) for query in table[:PROBED]]
    model = load_model(preprocessor.base)
    ((_, values),) = score_batches(model, trees, [range(len(trees))], settings.training.row_tokens, preprocessor.end_id)
    yield from values
    lengths = tokens.responses.lengths
    for number in range(len(trees), len(table)):
        yield [(-float(length), int(length)) for length in lengths[tokens.first[number] : tokens.first[number + 1]]]
