"""All stages in turn on rows with zero to three pictures in one to three turns, from rows to the page of samples, with a base of two kinds."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from components.alignment import reference_stage
from components.alignment import stage as align_stage
from components.alignment.reference_table import read_log_probs
from components.checkout import Checkout
from components.config.overrides import write_settings
from components.config.settings import Settings, load_settings
from components.critique import stage as critique_stage
from components.evaluation import stage as evaluate_stage
from components.families.processing import Preprocessor
from components.preferences.record import read_queries
from components.reward import stage as reward_stage
from components.validation import stage as validate_stage
from tests.conftest import ROOT
from tests.families.checkpoints import BUILDERS
from tests.families.conversations import expected
from tests.settings import shipped

ROWS, HELDOUT = 32, 8
SIZES = [(32, 32), (64, 40), (40, 64), (100, 50)]
QUICK: dict[str, dict[str, Any]] = {
    "model": {"attention": "sdpa"},
    "validate": {"min_responses": 2},
    "training": {"ranks": 1, "threads": 1, "precision": "fp32", "row_tokens": 1024},
    "reward": {"queries_per_step": 16, "max_steps": 2},
    "reference": {"ranks": 1, "threads": 1},
    "critique": {"ranks": 1, "threads": 1, "max_new_tokens": 4, "batch_size": 16},
    "alignment": {"queries_per_step": 16, "max_steps": 2},
    "evaluate": {"ranks": 1, "threads": 1, "max_new_tokens": 4, "batch_size": 8},
}


def row(number: int, rng: np.random.Generator) -> dict[str, Any]:
    """A row with number % 4 pictures over 1 + number % 3 turns, each with a mark at the front, in the middle or at the end of a turn."""
    pictures, turns = number % 4, 1 + number % 3
    texts = [f"Question {number} of turn {turn}: what is it?" for turn in range(turns)]
    for _ in range(pictures):
        turn = int(rng.integers(turns))
        words = texts[turn].split(" ")
        words.insert(int(rng.integers(len(words) + 1)), "<image>")
        texts[turn] = " ".join(words)
    conversation = [{"from": "human", "value": texts[0]}]
    for text in texts[1:]:
        conversation += [{"from": "gpt", "value": "It is a square."}, {"from": "human", "value": text}]
    question = {"question": texts[0]} if turns == 1 else {"conversations": conversation}
    chosen = rng.choice(len(SIZES), pictures, replace=False).tolist()
    return {
        "id": f"row-{number}",
        **question,
        "image": [f"pictures/{picture}.png" for picture in chosen],
        "models_output": [f"Yes, {number}.", "No.", "It may be so, but who knows?"],
        "final_ranking": [1, 2, 3],
        "faithfulness": [5, 3, 1],
        "score_reasons": ["Right.", "Wrong.", "It says nothing."],
        "category": ("short", "mcq", "long")[number % 3],
    }


@pytest.fixture(params=["llava_onevision", "qwen2_5_vl"])
def checkout(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Settings, Checkout]:
    values = shipped()
    for section, keys in QUICK.items():
        values[section].update(keys)
    values["model"]["base"] = "data/base"
    write_settings(tmp_path / "params.yaml", values)
    BUILDERS[request.param](tmp_path / "data/base")
    shutil.copytree(ROOT / "infra/deepspeed", tmp_path / "infra/deepspeed")
    preferences = tmp_path / "data/preferences"
    (preferences / "pictures").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number, (width, height) in enumerate(SIZES):
        Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(preferences / f"pictures/{number}.png")
    rows = [json.dumps(row(number, rng)) + "\n" for number in range(ROWS + HELDOUT)]
    (preferences / "data.jsonl").write_text("".join(rows[:ROWS]))
    (preferences / "heldout.jsonl").write_text("".join(rows[ROWS:]))
    return load_settings(tmp_path / "params.yaml"), Checkout(tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_conversations_pass_through_every_stage(checkout: tuple[Settings, Checkout]) -> None:
    settings, folder = checkout
    validated = validate_stage.run(settings, folder)
    assert (validated.metrics["queries"], validated.metrics["heldout_queries"], validated.metrics["quarantined"]) == (ROWS, HELDOUT, 0)
    queries = read_queries(folder.queries("train"))
    assert {len(query.media) for query in queries} == {0, 1, 2, 3}
    assert {len(query.turns) for query in queries} == {1, 3, 5}

    trained = reward_stage.run(settings, folder)
    critique_stage.run(settings, folder)
    assert [pq.read_metadata(folder.critiques(split)).num_rows for split in ("train", "heldout")] == [3 * ROWS, 3 * HELDOUT]
    reference_stage.run(settings, folder)
    aligned = align_stage.run(settings, folder)
    for result in (trained, aligned):
        assert all(math.isfinite(value) for value in result.metrics.values() if isinstance(value, float))
    evaluated = evaluate_stage.run(settings, folder)
    assert {name: value for name, value in evaluated.metrics.items() if name.endswith("acc")}, evaluated.metrics

    model = AutoModelForImageTextToText.from_pretrained(folder.root / "data/base").eval()
    reader = Preprocessor(folder.root / "data/base", folder.preferences, settings.model, settings.features)
    table = read_log_probs(folder.reference("train"))
    with torch.no_grad():
        for query in queries[:12]:
            encoded = expected(reader, query)
            for number, response in enumerate(query.responses):
                ids = reader.response_ids(response.text)
                suffix = torch.tensor([ids])
                fills = {"input_ids": suffix, "attention_mask": torch.ones_like(suffix), "mm_token_type_ids": torch.zeros_like(suffix)}
                whole = {name: torch.cat([value, fills[name]], 1) if name in fills else value for name, value in encoded.items()}
                logits = model(**whole).logits[0, -len(ids) - 1 : -1].log_softmax(-1)
                total = logits.gather(1, suffix[0][:, None]).sum()
                assert table[query.id, number][0] == pytest.approx(float(total), abs=1e-4), query.id

    heldout = read_queries(folder.queries("heldout"))
    samples = {sample["id"]: sample for sample in map(json.loads, (folder.root / "artifacts/evaluate/samples/samples.jsonl").open())}
    assert [samples[query.id]["media"] for query in heldout] == [[medium.path for medium in query.media] for query in heldout]
    page = (folder.root / "artifacts/evaluate/samples/samples.html").read_text()
    assert page.count("data:image/png;base64,") == sum(len(query.media) for query in heldout)
