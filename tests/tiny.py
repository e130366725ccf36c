"""A tiny checkout for tests: a random checkpoint with all files that plain transformers opens, queries, media and settings."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    PreTrainedTokenizerFast,
    Qwen2Config,
    SiglipVisionConfig,
)

from components.config.features import FeatureSettings
from components.config.model import ModelSettings
from components.config.overrides import write_settings
from components.config.settings import Settings, load_settings
from components.families.adapters import Root
from components.families.loading import load_model
from components.families.processing import Preprocessor
from components.features.embedding import embed
from components.preferences.record import Medium, Query, Response, write_queries
from tests.settings import shipped

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>"]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}<{{ part['type'] }}>{% endif %}{% endfor %}"
    "{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def save_checkpoint(folder: Path, *, seed: int = 0, vocabulary: int | None = None) -> Path:
    """Write a random two-layer LLaVA-OneVision with a byte-level tokenizer.

    With a `vocabulary`, embedding and head have so many rows and are not tied, as in the 7B checkpoints.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({character: number for number, character in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", additional_special_tokens=SPECIAL
    )
    processor = LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(size={"height": 32, "width": 32}, image_grid_pinpoints=[[32, 32], [64, 32]]),
        tokenizer=fast,
        video_processor=LlavaOnevisionVideoProcessor(size={"height": 32, "width": 32}),
        num_image_tokens=4,
        vision_feature_select_strategy="full",
        chat_template=TEMPLATE,
    )
    torch.manual_seed(seed)
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=32,
            patch_size=16,
            vision_use_head=False,
        ),
        text_config=Qwen2Config(
            vocab_size=vocabulary or len(fast),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            tie_word_embeddings=vocabulary is None,
            bos_token_id=None,
            eos_token_id=fast.eos_token_id,
            pad_token_id=fast.pad_token_id,
        ),
        image_token_index=fast.convert_tokens_to_ids("<image>"),
        video_token_index=fast.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=[[32, 32], [64, 32]],
        vision_feature_layer=-1,
        tie_word_embeddings=vocabulary is None,
    )
    model = LlavaOnevisionForConditionalGeneration(config)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def save_media(folder: Path) -> None:
    """A square image, a tall one and two videos of unequal length, of seeded noise."""
    noise = np.random.default_rng(0)
    for name, size in {"square.png": (32, 32), "tall.png": (32, 64), "two/0.png": (32, 32), "two/1.png": (32, 32)}.items():
        _save(folder / name, noise, size)
    for frame in range(3):
        _save(folder / f"three/{frame}.png", noise, (32, 32))


def _save(path: Path, noise: np.random.Generator, size: tuple[int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)).save(path)


def queries() -> list[Query]:
    """One query of each kind of media, with unequal numbers and lengths of responses, a tie among them."""
    texts = ["Yes.", "No, it is a long way off.", "Maybe", "I can't tell from here."]
    shown = [
        (Medium("square.png", "image", "square.png"),),
        (Medium("tall.png", "image", "tall.png"),),
        (),
        (Medium("two", "video", "two"),),
        (Medium("three", "video", "three"),),
    ]
    ranks = [(1, 2, 3, 4), (2, 1), (1, 1, 2), (3, 2, 1), (1, 2, 2, 3)]
    return [
        Query.single(
            f"q{number}",
            "short",
            f"Is it {number}?",
            tuple(Response(texts[i], rank, critique=f"Fault {i}.") for i, rank in enumerate(ranks[number])),
            *media,
        )
        for number, media in enumerate(shown)
    ]


def rephrased(query: Query, prompt: str, **changes: Any) -> Query:
    """A query of one turn with another question about the same media."""
    return replace(query, turns=Query.single("", "short", prompt, (), *query.media).turns, **changes)


def showing(query: Query, *media: Medium, **changes: Any) -> Query:
    """The same question about other media."""
    return replace(query, turns=Query.single("", "short", query.prompt, (), *media).turns, media=media, **changes)


def remade(query: Query, **changes: Any) -> Query:
    """The query with changes of its only medium."""
    return replace(query, media=(replace(query.media[0], **changes),))


def varied_model(base: Path) -> Any:
    """The checkpoint with a head of its own and large weights: a tied model repeats its last token."""
    model = load_model(base)
    torch.manual_seed(1)
    model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))
    for name, weight in model.model.language_model.named_parameters():
        if name.endswith("proj.weight"):
            torch.nn.init.normal_(weight, std=0.3)
    return model


def preprocessor(base: Path, media: Path) -> Preprocessor:
    """The preprocessor of a tiny checkpoint."""
    settings = ModelSettings(base=base, attention="sdpa", max_length=512, max_frames=8)
    return Preprocessor(base, media, settings, FeatureSettings(pixels_max_gb=1))


@torch.no_grad()
def embedded_media(model: Any, root: Root) -> torch.Tensor:
    """The rows that `embed` puts at the placeholders of a prompt's media, in order: [rows, hidden size]."""
    embeddings, media_RL, _ = embed(model, torch.tensor([root.input_ids]), [root])
    return embeddings[media_RL]


def pixels(root: Root) -> dict[str, torch.Tensor]:
    """The tensors of a root's media as a model's own forward takes them."""
    names = {name for medium in root.media for name in medium.tensors}
    return {name: torch.cat([medium.tensors[name] for medium in root.media]) for name in names}


def save_checkout(root: Path, base: Path, media: Path, **changes: dict[str, object]) -> Settings:
    """A checkout with a random base, validated tables of the tiny queries, and the shipped settings with `changes` a section.

    Stages compute on one thread: two wait for each other longer than they multiply so few numbers.
    """
    repository = Path(__file__).resolve().parent.parent
    values = shipped()
    values["model"]["base"] = "data/base"
    for section in ("critique", "reference", "evaluate"):
        values[section]["threads"] = 1
    for section, keys in changes.items():
        values[section].update(keys)
    write_settings(root / "params.yaml", values)
    shutil.copytree(base, root / "data/base")
    shutil.copytree(media, root / "data/preferences")
    shutil.copytree(repository / "infra/deepspeed", root / "infra/deepspeed")
    for split in ("train", "heldout"):
        write_queries(root / f"artifacts/validate/{split}/queries.parquet", [replace(query, split=split) for query in queries()])
    return load_settings(root / "params.yaml")
