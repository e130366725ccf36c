"""An outline equals the root that the family's own processor makes of the media, but for the pixels; nothing is opened for it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from components.config.features import FeatureSettings
from components.config.model import ModelSettings
from components.families import outlines
from components.families.adapters import Root
from components.families.processing import Preprocessor
from components.preferences.record import Medium, Query, Response
from components.trees.scoring import policy_tokens, policy_tree
from components.validation.lengths import LengthCheck
from tests.families.checkpoints import BUILDERS
from tests.tiny import showing

SIZES = [(32, 32), (70, 41), (41, 70), (200, 64), (640, 480)]
FRAMES = [1, 2, 3, 5]
PROMPTS = ["Why?", "  two  spaces,\nand a line ", "é 漢字 4.5%"]
INSTRUCTION = "Judge it:"


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    noise = np.random.default_rng(0)

    def save(path: Path, size: tuple[int, int]) -> None:
        Image.fromarray(noise.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)).save(path)

    for width, height in SIZES:
        save(folder / f"{width}x{height}.png", (width, height))
    for count in FRAMES:
        (folder / str(count)).mkdir()
        for frame in range(count):
            save(folder / f"{count}/{frame}.png", (48, 32))
    return folder


@pytest.fixture(scope="module", params=sorted(BUILDERS))
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return BUILDERS[request.param](tmp_path_factory.mktemp(request.param))


def preprocessor(base: Path, media: Path) -> Preprocessor:
    return Preprocessor(
        base, media, ModelSettings(base=base, attention="sdpa", max_length=4000, max_frames=4), FeatureSettings(pixels_max_gb=0)
    )


def queries() -> list[Query]:
    """Every size with every prompt."""
    responses = (Response("Yes.", 1, critique="Fault."), Response("No, and that is all.", 2))
    texts = [Query.single("t", "short", prompt, responses) for prompt in PROMPTS]
    images = [(f"{width}x{height}.png", "image", (width, height, 1)) for width, height in SIZES]
    videos = [(str(count), "video", (48, 32, count)) for count in FRAMES]
    return texts + [
        showing(text, Medium(name, kind, name, size), id=name)  # type: ignore[arg-type]
        for name, kind, size in images + videos
        for text in texts
    ]


def parts(root: Root) -> list[object]:
    """All of a root but the content of its pixels."""
    positions = None if root.positions_AL is None else root.positions_AL.tolist()
    media = [
        [medium.kind, medium.key]
        + [[name, list(t.shape), t.dtype, None if name.startswith("pixel") else t.tolist()] for name, t in sorted(medium.tensors.items())]
        for medium in root.media
    ]
    return [root.input_ids, positions, media]


def test_outline_equals_the_processed_root(base: Path, media: Path) -> None:
    processed, outlined = preprocessor(base, media), preprocessor(base, media / "nothing")  # whoever opens a medium there fails
    for query in queries():
        policy, judge = processed.policy_root(query), processed.judge_root(query, INSTRUCTION)
        assert parts(outlined.judge_outline(query, INSTRUCTION)) == parts(judge)
        assert outlined.policy_length(query) == len(policy.input_ids)
        assert outlined.judge_length(query, INSTRUCTION) == len(judge.input_ids)
        assert policy_tokens(outlined, query) == policy_tree(processed, query).tokens
        assert all(
            t.device.type == "meta" for m in outlined.judge_outline(query, INSTRUCTION).media for n, t in m.tensors.items() if "pixel" in n
        )


def test_validation_counts_the_longest_branch(base: Path, media: Path) -> None:
    check = LengthCheck(preprocessor(base, media / "nothing"), INSTRUCTION, 4000)
    processed = preprocessor(base, media)
    longest = max(map(check.check, queries()))
    policy = [
        len(processed.policy_root(query).input_ids) + len(processed.response_ids(response.text))
        for query in queries()
        for response in query.responses
    ]
    judge = [
        len(processed.judge_root(query, INSTRUCTION).input_ids)
        + len(processed.judge_ids(response.text))
        + len(processed.critique_ids(response.critique or ""))
        for query in queries()
        for response in query.responses
    ]
    assert longest == max(policy + judge)


def test_prompts_with_media_of_one_size_are_processed_once(base: Path, media: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outlined = preprocessor(base, media / "nothing")
    encode, calls = type(outlined.family).encode, []

    def counted(*arguments: object) -> Root:
        calls.append(arguments)
        return encode(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(type(outlined.family), "encode", counted)
    for query in queries():
        if query.media:
            outlined.policy_length(query)
    # Videos beyond max_frames have max_frames.
    assert len(calls) == len(SIZES) + len({min(count, 4) for count in FRAMES})


def test_size_is_read_from_the_header_where_validation_left_none(base: Path, media: Path) -> None:
    reader = preprocessor(base, media)
    for query in queries():
        for medium in query.media:
            assert reader.media_size(replace(medium, size=None)) == reader.media_size(medium)


def test_openings_in_memory_are_limited(base: Path, media: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outlines, "OPENINGS", 2)
    outlined, processed = preprocessor(base, media / "nothing"), preprocessor(base, media)
    for query in queries():
        assert parts(outlined.judge_outline(query, INSTRUCTION)) == parts(processed.judge_root(query, INSTRUCTION))
    assert len(outlined._outlines._openings) == 2


def test_prompt_that_does_not_split_is_processed_whole(base: Path, media: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outlined, processed = preprocessor(base, media / "nothing"), preprocessor(base, media)
    monkeypatch.setattr(outlines.Outlines, "_tokens", lambda *_: [-1])
    for query in queries():
        assert parts(outlined.judge_outline(query, INSTRUCTION)) == parts(processed.judge_root(query, INSTRUCTION))


def test_counting_lengths_draws_no_random_number(base: Path, media: Path) -> None:
    """Counting lengths draws no random number, or a training's losses would depend on it."""
    before = torch.random.get_rng_state()
    preprocessor(base, media).policy_length(queries()[-1])
    assert torch.equal(before, torch.random.get_rng_state())
