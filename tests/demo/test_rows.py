from __future__ import annotations

from pathlib import Path

import pytest

from components.config.features import FeatureSettings
from components.config.model import ModelSettings
from components.families.processing import Preprocessor
from demo.checkpoint import build_processor, save_checkpoint, token_ids
from demo.families import FAMILIES, draw_task
from demo.images import load_pictures
from demo.measure import write_media
from demo.rows import RowMaker
from demo.tasks import seeded
from demo.text import train_tokenizer

INSTRUCTION = "Judge the answer to the question: say what is right, what is wrong, and why."


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained base with the demo's tokenizer."""
    from demo.architecture import build_model

    folder = tmp_path_factory.mktemp("base") / "base"
    tokenizer = train_tokenizer(INSTRUCTION)
    save_checkpoint(build_model(len(tokenizer), token_ids(tokenizer), 0), build_processor(tokenizer), folder)
    return folder


@pytest.fixture(scope="module")
def preprocessor(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Preprocessor:
    settings = ModelSettings(base=base, attention="sdpa", max_length=512, max_frames=8)
    return Preprocessor(base, tmp_path_factory.mktemp("media"), settings, FeatureSettings(pixels_max_gb=0.1))


def test_training_rows_have_standard_processor_tokens(preprocessor: Preprocessor) -> None:
    maker, chance = RowMaker(preprocessor.tokenizer, INSTRUCTION), seeded(3)
    tasks = [draw_task(family, load_pictures("train"), chance) for family in FAMILIES]
    for task, query in zip(tasks, write_media(tasks, preprocessor.media_root), strict=True):
        answer = task.habit(chance)
        row = maker.answer(task, answer)
        assert row.tokens == [*preprocessor.policy_root(query).input_ids, *preprocessor.response_ids(answer.text)]
        assert row.learned_from == len(preprocessor.policy_root(query).input_ids)
        check = maker.check(task, answer)
        judged = [*preprocessor.judge_root(query, INSTRUCTION).input_ids, *preprocessor.judge_ids(answer.text)]
        assert check.tokens == [*judged, *preprocessor.critique_ids(task.critique(answer))]
        assert check.learned_from == len(judged)


def test_demo_words_are_single_tokens_and_text_round_trips(preprocessor: Preprocessor) -> None:
    tokenizer, chance = preprocessor.tokenizer, seeded(5)
    for family in FAMILIES:
        task = draw_task(family, load_pictures("train"), chance)
        for word in f"{task.prompt} {task.habit(chance).text}".replace("\n", " ").split(" "):
            letters = "".join(c for c in word if c.isalpha())
            assert len(tokenizer.tokenize(f" {letters}")) <= 2, letters
    for text in ("Größe, naïve 你好\t x\r\n\n  end ", "<image> is text here", "a  b   c", "🙂"):
        assert tokenizer.decode(tokenizer(text, split_special_tokens=True)["input_ids"]) == text


def test_template_takes_parts_and_plain_text_alike(preprocessor: Preprocessor) -> None:
    render = preprocessor.processor.apply_chat_template
    plain = render([{"role": "user", "content": "hi"}], add_generation_prompt=True, tokenize=False)
    parts = render([{"role": "user", "content": [{"type": "text", "text": "hi"}]}], add_generation_prompt=True, tokenize=False)
    assert plain == parts == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


def test_training_features_equal_pipeline_features(base: Path, preprocessor: Preprocessor) -> None:
    import torch

    from components.families.loading import load_model
    from demo.language import PictureFeatures
    from tests.tiny import embedded_media

    model, chance = load_model(base), seeded(7)
    tasks = [draw_task(family, load_pictures("train"), chance) for family in ("short_colour", "video_order")]
    features = PictureFeatures(model, [picture for task in tasks for picture in task.pictures])
    for task, query in zip(tasks, write_media(tasks, preprocessor.media_root), strict=True):
        expected = embedded_media(model, preprocessor.policy_root(query))
        torch.testing.assert_close(features.of(task.pictures), expected, rtol=1e-4, atol=1e-5)
