"""The whole pipeline with other engines than the default: ZeRO-3, and merged low-rank adapters."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks._slice import write_slice
from tests.recipe.conftest import Recipe, make_recipe

TINY = {
    "reward": {"epochs": 1, "max_steps": 3, "critique_source": "annotated"},
    "alignment": {"epochs": 1, "max_steps": 3},
    "training": {"checkpoint_every": "2 steps"},
    "evaluate": {"max_new_tokens": 12, "samples": 4},
    "critique": {"max_new_tokens": 8},
}
# Uses nothing of the project, like a person who has only the model's folder.
PLAIN = """
import json, sys
from transformers import AutoModelForImageTextToText, AutoProcessor
folder = sys.argv[1]
model, processor = AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
messages = [{"role": "user", "content": [{"type": "text", "text": "Is there a red circle?"}]}]
text = processor.apply_chat_template(messages, add_generation_prompt=True)
tokens = model.generate(**processor(text=[text], return_tensors="pt"), max_new_tokens=5, do_sample=False)
print(json.dumps({"parameters": sum(p.numel() for p in model.parameters()), "tokens": tokens[0].tolist()}))
"""


def opened(recipe: Recipe, folder: Path, where: Path) -> dict[str, object]:
    completed = subprocess.run(
        [sys.executable, "-c", PLAIN, str(recipe.root / folder)],
        cwd=where,
        env={"PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert completed.returncode == 0, completed.stderr[-2000:]
    printed: dict[str, object] = json.loads(completed.stdout.splitlines()[-1])
    return printed


@pytest.mark.slow
def test_zero_3_and_merged_adapters_open_in_transformers(base: Path, tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path, base, lambda folder: write_slice(folder, train=24, heldout=20), TINY)
    before = opened(recipe, Path("data/base"), tmp_path)

    completed = recipe.mmalign("run", "--accept-data", "--save", "--set", "training.zero_stage=3")
    assert completed.returncode == 0, completed.stdout[-3000:] + completed.stderr[-3000:]
    assert "ZeRO-3" in (completed.stdout + completed.stderr)
    for folder in ("artifacts/align/model", "artifacts/reward/model"):
        assert opened(recipe, Path(folder), tmp_path)["parameters"] == before["parameters"]
    by_zero_3 = (recipe.root / "artifacts/align/model/model.safetensors").read_bytes()
    assert by_zero_3 != (recipe.root / "data/base/model.safetensors").read_bytes()

    completed = recipe.mmalign("run", "--save", "--set", "training.zero_stage=2", "--set", "model.lora.rank=8")
    assert completed.returncode == 0, completed.stdout[-3000:] + completed.stderr[-3000:]
    assert opened(recipe, Path("artifacts/align/model"), tmp_path)["parameters"] == before["parameters"]
    names = [path.name for path in (recipe.root / "artifacts/align/model").iterdir()]
    assert not any("adapter" in name for name in names), "merged adapters leave a whole model"
    assert (recipe.root / "artifacts/align/model/model.safetensors").read_bytes() != by_zero_3
