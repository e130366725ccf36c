"""The conformance suite's prompts with media of every kind, and its slow oracle: transformers' own processor and forward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from components.families.adapters import Root
from components.families.qwen2_vl import FRAMES_PER_SECOND
from components.trees.trees import Branch, Tree

NOISE = np.random.default_rng(0)


def image(width: int, height: int) -> Image.Image:
    """An image of noise."""
    return Image.fromarray(NOISE.integers(0, 255, (height, width, 3), dtype=np.uint8))


def clip(frames: int, width: int = 48, height: int = 32) -> np.ndarray[Any, Any]:
    """A video of noise."""
    return NOISE.integers(0, 255, (frames, height, width, 3), dtype=np.uint8)


@dataclass(frozen=True)
class Prompt:
    """A question with its media, and what is answered."""

    question: str
    answers: tuple[str, ...]
    images: tuple[Image.Image, ...] = ()
    videos: tuple[np.ndarray[Any, Any], ...] = ()

    @property
    def keys(self) -> list[str]:
        """Names of the media."""
        return [f"{self.question}/{number}" for number in range(len(self.images) + len(self.videos))]


PROMPTS = {
    "image": Prompt("What is it?", ("A cat.", "No.", "It may well be a dog, seen from behind."), images=(image(32, 32),)),
    "wide image": Prompt("And this?", ("Hm", "A plain."), images=(image(64, 32),)),
    "images": Prompt("Which is older?", ("Left", "The second one."), images=(image(32, 32), image(48, 32), image(32, 64))),
    "video": Prompt("What happens?", ("It rains.", "Nothing"), videos=(clip(4),)),
    "odd video": Prompt("And then?", ("Snow", "A man walks past."), videos=(clip(3),)),
    "text": Prompt("Why?", ("So.", "Nobody knows.")),
    "one branch": Prompt("Is it?", ("Yes",), images=(image(32, 48),)),
}


@dataclass(frozen=True)
class Opened:
    """A family's checkpoint, opened by this package and by transformers alone."""

    folder: Any
    model: Any
    preprocessor: Any
    expected: dict[str, Tensor] = field(default_factory=dict)  # logits of the slow way, by question

    @property
    def processor(self) -> Any:
        """The family's own."""
        return self.preprocessor.processor

    def text(self, prompt: Prompt) -> str:
        """The prompt as its chat template writes it."""
        media = [{"type": "image"}] * len(prompt.images) + [{"type": "video"}] * len(prompt.videos)
        messages = [{"role": "user", "content": [*media, {"type": "text", "text": prompt.question}]}]
        return str(self.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))

    def root(self, prompt: Prompt) -> Root:
        """The prompt through the adapter."""
        ours = self.preprocessor
        return ours.family.encode(ours.processor, ours.config, self.text(prompt), prompt.images, prompt.videos, prompt.keys)  # type: ignore[no-any-return]

    def tree(self, prompt: Prompt) -> Tree:
        """The prompt with its answers as branches."""
        return Tree(self.root(prompt), tuple(Branch(tuple(self.preprocessor.response_ids(answer))) for answer in prompt.answers))

    def encoded(self, prompt: Prompt, after: Sequence[int] = ()) -> dict[str, Any]:
        """What the processor alone makes of the prompt, with tokens after it."""
        arguments: dict[str, Any] = {}
        if prompt.images:
            arguments["images"] = [list(prompt.images)]
        if prompt.videos:
            frames = [list(range(len(video))) for video in prompt.videos]
            arguments.update(videos=list(prompt.videos), do_sample_frames=False)
            if self.model.config.model_type.startswith("qwen"):
                arguments["video_metadata"] = [
                    {"total_num_frames": len(numbers), "fps": FRAMES_PER_SECOND, "frames_indices": numbers} for numbers in frames
                ]
        encoded = dict(self.processor(text=[self.text(prompt)], return_tensors="pt", **arguments))
        suffix = torch.tensor([list(after)], dtype=torch.long)
        fills = {"input_ids": suffix, "attention_mask": torch.ones_like(suffix), "mm_token_type_ids": torch.zeros_like(suffix)}
        for name, fill in fills.items():
            if name in encoded:
                encoded[name] = torch.cat([encoded[name], fill], dim=1)
        return encoded

    def branch_logits(self, prompt: Prompt, branch: Branch) -> Tensor:
        """Logits [T, V] that predict a branch's tokens, through the model's own forward on the prompt and this branch alone."""
        logits: Tensor = self.model(**self.encoded(prompt, branch.input_ids)).logits[0]
        return logits[-len(branch.input_ids) - 1 : -1]

    def separate_logits(self, prompts: Sequence[Prompt]) -> Tensor:
        """Logits [T, V] that predict the tokens of all branches of these prompts, in order, without gradient."""
        for prompt in prompts:
            if prompt.question not in self.expected:
                with torch.no_grad():
                    logits = [self.branch_logits(prompt, branch) for branch in self.tree(prompt).branches]
                self.expected[prompt.question] = torch.cat(logits)
        return torch.cat([self.expected[prompt.question] for prompt in prompts])
