"""Conversations of several turns about several media, and what transformers' own processor makes of each as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from components.families.adapters import Root
from components.families.processing import Preprocessor
from components.families.qwen2_vl import FRAMES_PER_SECOND
from components.preferences.record import Medium, Query, Response, Role, Turn

RESPONSES = (Response("The left one.", 1, critique="Right."), Response("Neither of the two, as far as I can see.", 2, critique="No."))
SMALL = {"a.png": (32, 32), "b.png": (64, 40), "c.png": (40, 64), "d.png": (120, 50)}  # width and height
CLIP = Medium("clip", "video", "clip digest")


def picture(name: str) -> Medium:
    """An image of the folder, as validation leaves it but for its size."""
    return Medium(name, "image", f"{name} digest")


def conversations(names: tuple[str, ...] = tuple(SMALL), *, video: bool = True) -> dict[str, Query]:
    """Conversations about the images `names`, by what is special about each."""
    a, b, c, d = (picture(name) for name in names)

    def query(*turns: tuple[str, ...], media: tuple[Medium, ...]) -> Query:
        roles: dict[str, Role] = {"u": "user", "a": "assistant", "s": "system"}
        return Query("q", "short", tuple(Turn(roles[turn[0]], turn[1:]) for turn in turns), RESPONSES, media)

    made = {
        "several first": query(("u", "", "", "", "Which is older?"), media=(a, b, c)),
        "within the text": query(("u", "Look at ", " and say the color."), media=(b,)),
        "at the end": query(("u", "What color is it?\n", ""), media=(b,)),
        "three in two turns": query(("u", "", "Is it ", " or that?"), ("a", "That."), ("u", "And now? ", " Say why."), media=(a, d, c)),
        "in an earlier turn only": query(("u", "", "What is it?"), ("a", "A cat."), ("u", "Of what color?"), media=(d,)),
        "in every turn": query(("u", "", "One?"), ("a", "Yes."), ("u", "", "Two?"), ("a", "No."), ("u", "", "Three?"), media=(a, b, a)),
        "system": query(("s", "Answer in one word."), ("u", "", "What is it?"), media=(c,)),
        "text alone": query(("u", "Is it so?"), ("a", "It is. 漢字"), ("u", " Really?\n"), media=()),
    }
    if video:
        made["image and video"] = query(("u", "", "", "What changed?"), media=(a, CLIP))
        made["video before image"] = query(("u", "", " then ", ": which?"), ("a", "The first."), ("u", "Why?"), media=(CLIP, d))
    return made


def save_media(folder: Path) -> None:
    """Noise for the images, and a clip of three frames."""
    noise = np.random.default_rng(0)
    for name, (width, height) in SMALL.items() | {(f"clip/{number}.png", (48, 32)) for number in range(3)}:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(path)


def messages_of(query: Query, *, within: bool) -> list[dict[str, Any]]:
    """The conversation as a user of transformers writes it: parts in order, or (`within`) placeholders in the text behind a turn's first media."""
    media = iter(query.media)
    messages = []
    for turn in query.turns:
        content: list[dict[str, str]] = []
        for number, piece in enumerate(turn.pieces):
            kind = next(media).kind if number else None
            text = f"<{kind}>{piece}" if kind and within and number > turn.leading else piece
            if kind and text == piece:
                content.append({"type": kind})
            if not text:
                continue
            if within and content and content[-1]["type"] == "text":
                content[-1]["text"] += text
            else:
                content.append({"type": "text", "text": text})
        messages.append({"role": turn.role, "content": content})
    return messages


def expected(reader: Preprocessor, query: Query, *, within: bool = False) -> dict[str, Any]:
    """What the checkpoint's own processor makes of the conversation in one call."""
    text = reader.processor.apply_chat_template(messages_of(query, within=within), add_generation_prompt=True, tokenize=False)
    arguments: dict[str, Any] = {}
    images = [Image.open(reader.media_root / medium.path).convert("RGB") for medium in query.media if medium.kind == "image"]
    if images:
        arguments["images"] = [images]
    if "video" in query.kinds:
        files = sorted((reader.media_root / CLIP.path).iterdir())
        arguments |= {"videos": [np.stack([np.asarray(Image.open(file)) for file in files])], "do_sample_frames": False}
        if reader.config.model_type.startswith("qwen"):
            frames = list(range(len(files)))
            arguments["video_metadata"] = [{"total_num_frames": len(files), "fps": FRAMES_PER_SECOND, "frames_indices": frames}]
    return dict(reader.processor(text=[text], return_tensors="pt", **arguments))


def assert_equal(root: Root, encoded: dict[str, Any], model: Any) -> None:
    """Tokens, pixels and M-RoPE positions of the root are those of the processor and of the model."""
    assert list(root.input_ids) == encoded["input_ids"][0].tolist()
    for name in sorted({name for medium in root.media for name in medium.tensors}):
        ours = torch.cat([medium.tensors[name] for medium in root.media if name in medium.tensors])
        assert torch.equal(ours, encoded[name].reshape(ours.shape)), name
    assert {name for medium in root.media for name in medium.tensors} >= {name for name in encoded if "pixel" in name}
    if root.positions_AL is not None:
        names = ("input_ids", "mm_token_type_ids", "image_grid_thw", "video_grid_thw", "second_per_grid_ts")
        positions, _ = model.get_rope_index(**{name: encoded[name] for name in names if name in encoded})
        assert torch.equal(root.positions_AL, positions[:, 0])
