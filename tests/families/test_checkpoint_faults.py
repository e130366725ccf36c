"""Checkpoints that training would misuse: refused in one sentence when they are read, or saved and opened right, in every family."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForImageTextToText, AutoProcessor

from components.config.features import FeatureSettings
from components.config.model import ModelSettings
from components.errors import UserError
from components.families.adapters import family_of
from components.families.loading import load_model, save_model, save_trained
from components.families.processing import Preprocessor
from components.preferences.record import Medium, Query
from tests.families.checkpoints import BUILDERS
from tests.families.prompts import PROMPTS, Opened
from tests.families.test_lora import opened, shaken

SETTINGS = ModelSettings(base=Path(), attention="sdpa", max_length=512, max_frames=8)
CONTRADICTION = {"do_sample": False, "temperature": 0.6, "top_p": 0.9}


def preprocessor(folder: Path) -> Preprocessor:
    return Preprocessor(folder, Path(), SETTINGS, FeatureSettings(pixels_max_gb=1))


@torch.no_grad()
def logits(folder: Path, model: Any) -> torch.Tensor:
    """Of a prompt with an image, through transformers' own processor and forward."""
    reader = Opened(folder, model, preprocessor(folder))
    output: torch.Tensor = model.eval()(**reader.encoded(PROMPTS["image"])).logits
    return output


@pytest.fixture(params=sorted(BUILDERS))
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return BUILDERS[request.param](tmp_path / "base")


def test_token_without_row_is_refused(folder: Path) -> None:
    processor = AutoProcessor.from_pretrained(folder)
    rows = json.loads((folder / "config.json").read_text())["text_config"]["vocab_size"]
    assert preprocessor(folder).end_id < rows
    processor.tokenizer.add_tokens(["[scene]"])
    processor.save_pretrained(folder)
    with pytest.raises(UserError, match=rf"more tokens than the embedding has rows \({rows}\): '\[scene\]' \({rows}\) has none"):
        preprocessor(folder)


def test_token_that_processor_replaces_needs_no_row(tmp_path: Path) -> None:
    """As in the published InternVL3 checkpoints, whose <video> is written as frames."""
    folder = BUILDERS["internvl"](tmp_path)
    config = json.loads((folder / "config.json").read_text())
    tokenizer = AutoProcessor.from_pretrained(folder).tokenizer
    assert tokenizer.convert_tokens_to_ids("<video>") == config["text_config"]["vocab_size"] - 1
    config["text_config"]["vocab_size"] -= 1
    (folder / "config.json").write_text(json.dumps(config))
    reader = preprocessor(folder)
    assert "<video>" in reader.media_tokens()


QUESTION = Query.single("q", "short", "What?", (), Medium("a.png", "image"))


@pytest.mark.parametrize("closing", ["", "\\n</think>\\n\\n"], ids=["open", "closed"])
def test_template_with_open_thought_is_refused(folder: Path, closing: str) -> None:
    path = folder / "chat_template.jinja"
    template = path.read_text()
    assert "assistant\\n" in template or "assistant\n" in template
    for line_end in ("assistant\\n", "assistant\n"):
        template = template.replace(line_end, line_end + "<think>\\n".replace("\\n", line_end[9:]) + closing.replace("\\n", line_end[9:]))
    path.write_text(template)
    if closing:
        assert preprocessor(folder).template.prompt(QUESTION).endswith("</think>\n\n")
        return
    with pytest.raises(UserError, match=r"opens a thought \(<think>\) before the answer and leaves it open"):
        preprocessor(folder).template.prompt(QUESTION)


def test_unmerged_adapters_are_same_model_in_peft(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Adapters and projector moved; opened by this package, by peft, and by transformers from the folder alone."""
    adapters = tmp_path / "adapters"
    adapters.mkdir()
    monkeypatch.chdir(tmp_path)  # the checkout, from which peft and transformers read the base's path
    model = shaken(opened(folder, parts={"lm_head": 1.0}, merge=False))
    save_trained(model, adapters, folder)
    assert not (adapters / "config.json").exists()
    assert json.loads((adapters / "adapter_config.json").read_text())["base_model_name_or_path"] == "base"
    expected = logits(folder, model)
    assert float((expected - logits(folder, load_model(folder))).abs().max()) > 1e-3
    torch.testing.assert_close(logits(folder, load_model(adapters)), expected, atol=1e-5, rtol=1e-5)
    by_peft = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(folder), str(adapters))
    torch.testing.assert_close(logits(folder, by_peft), expected, atol=1e-5, rtol=1e-5)
    by_folder = AutoModelForImageTextToText.from_pretrained(str(adapters))
    torch.testing.assert_close(logits(folder, by_folder), expected, atol=1e-5, rtol=1e-5)
    assert preprocessor(adapters).family is family_of(load_model(folder).config)


@pytest.mark.parametrize("tied", [True, False])
def test_merged_model_reopens_with_its_logits(folder: Path, tmp_path: Path, tied: bool) -> None:
    retied = load_model(folder)
    for config in (retied.config, retied.config.text_config):
        config.tie_word_embeddings = tied
    rows = retied.get_input_embeddings().weight
    retied.lm_head.weight = rows if tied else torch.nn.Parameter(rows.detach() * 1.5)
    (folder / "generation_config.json").write_text(json.dumps(CONTRADICTION))
    retied.generation_config = load_model(folder).generation_config
    save_model(retied, tmp_path / "base-tied", folder)
    model = shaken(opened(tmp_path / "base-tied"))
    save_trained(model, tmp_path / "merged", tmp_path / "base-tied")
    expected = logits(folder, model)
    for reopened in (load_model(tmp_path / "merged"), AutoModelForImageTextToText.from_pretrained(tmp_path / "merged")):
        assert (reopened.lm_head.weight is reopened.get_input_embeddings().weight) == tied
        torch.testing.assert_close(logits(folder, reopened), expected, atol=1e-5, rtol=1e-5)
    parts = family_of(model.config).modules(model)
    assert not [name for part in ("tower", "lm_head") for module in parts[part] for name, _ in module.named_parameters() if "lora_" in name]


def test_contradictory_generation_settings_are_copied(folder: Path, tmp_path: Path) -> None:
    text = json.dumps(CONTRADICTION)
    (folder / "generation_config.json").write_text(text)
    model = load_model(folder)
    save_model(model, tmp_path / "saved", folder)
    assert (tmp_path / "saved/generation_config.json").read_text() == text
    assert model.generation_config.temperature == CONTRADICTION["temperature"]
    load_model(tmp_path / "saved")
