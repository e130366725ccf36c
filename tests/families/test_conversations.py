"""Conversations with several media through each family's adapter, against its own processor's call on the whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText

from components.config.features import FeatureSettings
from components.config.model import ModelSettings
from components.families.processing import Preprocessor
from components.preferences.record import Query
from demo.text import CHAT_TEMPLATE
from tests.families.checkpoints import BUILDERS
from tests.families.conversations import assert_equal, conversations, expected, picture, save_media

CONVERSATIONS = conversations()
INSTRUCTION = "Judge it:"


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    save_media(folder)
    return folder


@pytest.fixture(scope="module", params=sorted(BUILDERS))
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return BUILDERS[request.param](tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def model(base: Path) -> Any:
    return AutoModelForImageTextToText.from_pretrained(base).model


def opened(base: Path, media: Path) -> Preprocessor:
    settings = ModelSettings(base=base, attention="sdpa", max_length=4000, max_frames=8)
    return Preprocessor(base, media, settings, FeatureSettings(pixels_max_gb=0))


@pytest.mark.parametrize("name", sorted(CONVERSATIONS))
def test_conversation_reads_as_its_own_processor_reads_it(base: Path, media: Path, model: Any, name: str) -> None:
    reader, query = opened(base, media), CONVERSATIONS[name]
    root = reader.policy_root(query)
    assert [medium.kind for medium in root.media] == list(query.kinds)
    assert_equal(root, expected(reader, query), model)


def parts(root: Any) -> list[object]:
    positions = None if root.positions_AL is None else root.positions_AL.tolist()
    media = [[m.kind, m.key, [(name, tuple(t.shape)) for name, t in sorted(m.tensors.items())]] for m in root.media]
    return [root.input_ids, positions, media]


def test_outlines_of_conversations_equal_processed_roots(base: Path, media: Path) -> None:
    reader = opened(base, media)
    outlined = opened(base, media / "nothing")  # whoever opens a medium there fails
    for query in CONVERSATIONS.values():
        sized = replace(query, media=tuple(replace(m, size=(*reader.media_size(m)[:2], reader.media_size(m)[2])) for m in query.media))
        for _ in range(2):  # the second time from the opening
            judge = reader.judge_root(query, INSTRUCTION)
            assert parts(outlined.judge_outline(sized, INSTRUCTION)) == parts(judge)
            assert outlined.judge_length(sized, INSTRUCTION) == len(judge.input_ids)
            assert outlined.policy_length(sized) == len(reader.policy_root(query).input_ids)


def test_judge_reads_earlier_turns_and_the_last_question(base: Path, media: Path) -> None:
    reader, query = opened(base, media), CONVERSATIONS["three in two turns"]
    judge = reader.judge_root(query, INSTRUCTION)
    policy = reader.policy_root(query)
    text = reader.tokenizer.decode([*judge.input_ids, *reader.judge_ids("Yes.")])
    assert f"{INSTRUCTION}\nQuestion: And now? " in text
    assert text.endswith(" Say why.\nAnswer:\nYes.<|im_end|>\n<|im_start|>assistant\n")
    policy_text = reader.tokenizer.decode(policy.input_ids)
    assert text[: text.index(INSTRUCTION)] == policy_text[: policy_text.index("And now? ")], "the turns before are those of the policy"
    assert [medium.key for medium in judge.media] == [medium.key for medium in policy.media]


def test_blanked_conversation_has_gray_pictures_of_its_sizes(base: Path, media: Path) -> None:
    reader, query = opened(base, media), CONVERSATIONS["three in two turns"]
    shown, blank = reader.judge_root(query, INSTRUCTION), reader.judge_root(query, INSTRUCTION, blank=True)
    assert blank.input_ids == shown.input_ids
    for one, other in zip(blank.media, shown.media, strict=True):
        assert one.key != other.key
        for name, tensor in one.tensors.items():
            assert tensor.shape == other.tensors[name].shape
            if "pixel" in name:
                assert not torch.equal(tensor, other.tensors[name])


def test_equal_keys_mean_equal_pixels(base: Path, media: Path) -> None:
    """LLaVA-OneVision reads a picture with tiles where it is the only one: features cached for one reading must not serve the other."""
    reader = opened(base, media)
    one = Query.single("one", "short", "?", (), picture("d.png"))
    two = Query.single("two", "short", "?", (), picture("d.png"), picture("a.png"))
    single, shared = reader.policy_root(one).media[0], reader.policy_root(two).media[0]
    equal = all(torch.equal(tensor, shared.tensors[name]) for name, tensor in single.tensors.items())
    assert (single.key == shared.key) == equal
    assert equal == (reader.config.model_type != "llava_onevision")


@pytest.mark.parametrize("name", ["at the end", "three in two turns", "video before image", "several first"])
def test_picture_stands_at_its_mark_where_template_moves_it(tmp_path: Path, media: Path, name: str) -> None:
    """The template of the bundled base, as that of LLaVA-OneVision, writes a turn's images, then its videos, then its texts."""
    base = BUILDERS["llava_onevision"](tmp_path)
    reader, query = opened(base, media), CONVERSATIONS[name]
    reader.processor.chat_template = CHAT_TEMPLATE
    root = reader.policy_root(query)
    model = AutoModelForImageTextToText.from_pretrained(base).model
    assert_equal(root, expected(reader, query, within=True), model)
    runs = [token for number, token in enumerate(root.input_ids) if number == 0 or root.input_ids[number - 1] != token]
    marked = "".join(
        {reader.config.image_token_id: "<image>", reader.config.video_token_id: "<video>"}.get(t) or reader.tokenizer.decode([t])
        for t in runs
    )
    places = [marked.index(piece[:9]) for turn in query.turns for piece in turn.pieces if len(piece) > 8]
    assert places == sorted(places)
