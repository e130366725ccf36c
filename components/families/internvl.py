"""InternVL3 in transformers' own format: InternViT tower, pixel shuffle and projector, Qwen2; an image is tiles, a video is frames.

A video has the same placeholder as an image, a run of them a frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from components.errors import UserError
from components.families.base import Family, Frames, Kind, Medium, Part, Picture, Projected, Root, VisionOutput, kinds_in

TEXT_MODELS = ("qwen2", "qwen3")  # their forward takes a mask for each kind of layer


class InternVL(Family):
    """The adapter. A tower output is [tiles or frames, patches, D]."""

    model_type: ClassVar[str] = "internvl"

    def check(self, config: Any) -> None:
        """Refuse a language model that can't read trees: checkpoints of this type have different ones."""
        if config.text_config.model_type not in TEXT_MODELS:
            raise UserError(
                f"InternVL with a language model of type '{config.text_config.model_type}' is not supported: "
                f"set model.base in params.yaml to a checkpoint with one of {', '.join(TEXT_MODELS)}"
            )

    def encode(
        self,
        processor: Any,
        config: Any,  # noqa: ARG002 -- positions are plain here
        text: str,
        images: Sequence[Picture],
        videos: Sequence[Frames],
        keys: Sequence[str],
    ) -> Root:
        """Tiles of each image and frames of each video (`pixel_values` [n, 3, H, W]).

        The processor reads the prompt piece by piece, each up to a medium: it can't stack videos of unequal length. A medium ends with a token
        of its own, so the pieces have the tokens of the whole.
        """
        kinds = kinds_in(text, processor, images, videos)
        marks: dict[Kind, str] = {"image": processor.image_token, "video": processor.video_token}
        waiting = {"image": iter(images), "video": iter(videos)}
        input_ids: list[int] = []
        media = []
        for kind, key in zip(kinds, keys, strict=True):
            before, mark, text = text.partition(marks[kind])
            medium = [next(waiting[kind])]
            arguments: dict[str, Any] = {"images": medium} if kind == "image" else {"videos": medium, "do_sample_frames": False}
            encoded = processor(text=[before + mark], return_tensors="pt", **arguments)
            input_ids += encoded["input_ids"][0].tolist()
            media.append(Medium(kind, key, {"pixel_values": encoded["pixel_values"].contiguous()}))
        if text or not input_ids:
            input_ids += processor(text=[text], return_tensors="pt")["input_ids"][0].tolist()
        return Root(tuple(input_ids), tuple(media))

    def placeholder_ids(self, config: Any) -> tuple[int, ...]:
        """The one placeholder, of images and of frames."""
        return (config.image_token_id,)

    def structure(self, processor: Any) -> set[str]:
        """The placeholders and the marks around a medium."""
        return {processor.image_token, processor.video_token, processor.start_image_token, processor.end_image_token}

    def replaced_tokens(self, processor: Any) -> set[str]:
        """The video's token: its frames are written as images."""
        return {processor.video_token}

    def vision_tower(self, model: Any, media: Sequence[Medium]) -> list[VisionOutput]:
        """The vision tower's selected hidden states; one pass reads the tiles or frames of all media."""
        tiles = [medium.tensors["pixel_values"] for medium in media]
        layer = model.config.vision_feature_layer
        outputs = model.model.vision_tower(
            pixel_values=torch.cat(tiles).to(model.device, model.dtype), output_hidden_states=layer != -1, return_dict=True
        )
        selected = outputs.last_hidden_state if layer == -1 else outputs.hidden_states[layer]
        if model.config.vision_feature_select_strategy == "default":
            selected = selected[:, 1:]
        return [(part,) for part in torch.split(selected, [len(part) for part in tiles])]

    def project(
        self,
        model: Any,
        media: Sequence[Medium],  # noqa: ARG002 -- tiles and frames are treated alike
        outputs: Sequence[VisionOutput],
    ) -> list[Projected]:
        """Shuffle neighboring patches into one token's channels, then run the projector."""
        inner = model.model
        patches_NPD = torch.cat([output[0] for output in outputs])
        tiles, patches, width = patches_NPD.shape
        side = int(patches**0.5)
        square: Tensor = inner.pixel_shuffle(patches_NPD.reshape(tiles, side, side, width), scale_factor=model.config.downsample_ratio)
        rows = inner.multi_modal_projector(square.flatten(1, 2))
        return [Projected(part.flatten(0, 1)) for part in torch.split(rows, [len(output[0]) for output in outputs])]

    def modules(self, model: Any) -> dict[Part, list[nn.Module | nn.Parameter]]:
        """One module a part."""
        inner = model.model
        return {
            "tower": [inner.vision_tower],
            "projector": [inner.multi_modal_projector],
            "language_model": [inner.language_model],
            "lm_head": [model.lm_head],
        }

    def dummy(self, config: Any) -> Medium:
        """An image of one black tile."""
        height, width = config.vision_config.image_size
        return Medium("image", "dummy", {"pixel_values": torch.zeros(1, 3, height, width)})
