"""From a chat template and media to a root: the differences between processors and templates of real checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from components.config.features import FeatureSettings
from components.config.model import ModelSettings
from components.errors import UserError
from components.families.adapters import family_of
from components.families.processing import Preprocessor
from components.preferences.record import Medium, Query
from tests.families.checkpoints import BUILDERS, SYSTEM
from tests.families.prompts import clip

MESSAGE = (
    "<|im_start|>{{ m.role }}\n{{ m.content[-1].text TRIM }}END{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def template(*, trim: str = "", end: str = "<|im_end|>\n", head: str = "") -> str:
    return head + "{% for m in messages %}" + MESSAGE.replace("TRIM", trim).replace("END", end)


def opened(folder: Path) -> Preprocessor:
    settings = ModelSettings(base=folder, attention="sdpa", max_length=512, max_frames=8)
    return Preprocessor(folder, Path(), settings, FeatureSettings(pixels_max_gb=1))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: build(tmp_path_factory.mktemp(name)) for name, build in BUILDERS.items()}


@pytest.fixture
def with_template(folders: dict[str, Path]) -> Callable[[str | None], Preprocessor]:
    def make(text: str | None) -> Preprocessor:
        preprocessor = opened(folders["qwen2_5_vl"])
        preprocessor.processor.chat_template = text
        return preprocessor

    return make


def query(prompt: str) -> Query:
    return Query.single("q", "short", prompt, ())


def test_default_system_prompt_comes_first(folders: dict[str, Path]) -> None:
    preprocessor = opened(folders["qwen2_vl"])
    text = preprocessor.tokenizer.decode(preprocessor.policy_root(query("Why?")).input_ids)
    assert text == ("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n")
    judged = preprocessor.tokenizer.decode([*preprocessor.judge_root(query("Why?"), "Judge.").input_ids, *preprocessor.judge_ids("So.")])
    assert judged == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nJudge.\nQuestion: Why?\nAnswer:\nSo.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_text_stripping_template_is_still_cut(with_template: Callable[[str | None], Preprocessor]) -> None:
    stripping, plain = with_template(template(trim="| trim", head=SYSTEM)), with_template(template(head=SYSTEM))
    assert stripping.policy_root(query("Why?")).input_ids == plain.policy_root(query("Why?")).input_ids
    assert stripping.judge_ids("So.") == plain.judge_ids("So.")


def test_end_of_turn_is_its_special_token(with_template: Callable[[str | None], Preprocessor]) -> None:
    preprocessor = with_template(template(end=" \n<|endoftext|>"))
    assert preprocessor.end_id == preprocessor.tokenizer.convert_tokens_to_ids("<|endoftext|>")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{{ raise_exception('no images here') }}", "no images here"),
        ("{% for m in messages %}{{ m.role }}{% endfor %}", "0 times"),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", "0 times"),
        ("{% for m in messages %}{{ m.content[-1].text }}{{ m.content[-1].text }}{% endfor %}", "2 times"),
        (None, "chat template"),
    ],
    ids=["refuses", "drops texts", "prints the list", "twice", "none"],
)
def test_unusable_template_is_named(with_template: Callable[[str | None], Preprocessor], text: str | None, words: str) -> None:
    with pytest.raises(UserError, match=words):
        with_template(text).policy_root(query("Why?"))


def test_turn_without_end_is_refused(with_template: Callable[[str | None], Preprocessor]) -> None:
    with pytest.raises(UserError, match="does not end"):
        _ = with_template(template(end="")).end_id


@pytest.mark.parametrize("name", sorted(BUILDERS))
@pytest.mark.parametrize("frames", [1, 7])
def test_frames_are_not_resampled(folders: dict[str, Path], name: str, frames: int) -> None:
    """The adapter switches off the sampling of a checkpoint's video processor; a single frame is a video too."""
    preprocessor = opened(folders[name])
    preprocessor.processor.video_processor.do_sample_frames = True
    preprocessor.processor.video_processor.num_frames = 2
    text = preprocessor.template.prompt(Query.single("q", "short", "What?", (), Medium("clip", "video")))
    root = preprocessor.family.encode(preprocessor.processor, preprocessor.config, text, [], [clip(frames)], ["clip"])
    tensors = root.media[0].tensors
    if "video_grid_thw" in tensors:
        assert int(tensors["video_grid_thw"][0, 0]) == (frames + 1) // 2  # two frames make a patch
    elif name == "internvl":
        assert len(tensors["pixel_values"]) == frames
    else:
        assert tensors["pixel_values_videos"].shape[1] == frames


def test_qwen3_prompt_states_frame_times(folders: dict[str, Path]) -> None:
    preprocessor = opened(folders["qwen3_vl"])
    text = preprocessor.template.prompt(Query.single("q", "short", "What?", (), Medium("clip", "video")))
    root = preprocessor.family.encode(preprocessor.processor, preprocessor.config, text, [], [clip(4)], ["clip"])
    text = preprocessor.tokenizer.decode(root.input_ids)
    assert "<0.2 seconds>" in text, "the middle of frames at 0 and 0.5 seconds"
    assert "<1.2 seconds>" in text, "the middle of frames at 1 and 1.5 seconds"


@pytest.mark.parametrize(
    ("name", "marks"),
    [
        ("llava_onevision", {"<image>", "<video>"}),
        ("qwen2_vl", {"<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"}),
        ("qwen2_5_vl", {"<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"}),
        ("qwen3_vl", {"<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"}),
        ("internvl", {"<img>", "</img>", "<IMG_CONTEXT>", "<video>"}),
    ],
)
def test_tokens_of_structure_are_named(folders: dict[str, Path], name: str, marks: set[str]) -> None:
    assert set(opened(folders[name]).media_tokens()) == marks | {"<|endoftext|>", "<|im_start|>", "<|im_end|>"}


def test_unsupported_type_is_refused_with_list() -> None:
    with pytest.raises(UserError, match=r"'gemma9' are not supported.*one of internvl, llava_onevision, qwen2_5_vl, qwen2_vl, qwen3_vl"):
        family_of(SimpleNamespace(model_type="gemma9"))


def test_internvl_with_another_language_model_is_refused() -> None:
    with pytest.raises(UserError, match="language model of type 'gpt_oss'"):
        family_of(SimpleNamespace(model_type="internvl", text_config=SimpleNamespace(model_type="gpt_oss")))
