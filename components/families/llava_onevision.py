"""LLaVA-OneVision: SigLIP tower, two-layer projector, Qwen2; an image is a base view and tiles, a video pooled frames."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import groupby
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from components.families.base import Family, Frames, Kind, Medium, Part, Picture, Projected, Root, VisionOutput, kinds_in


class LlavaOnevision(Family):
    """The adapter. A tower output is [tiles or frames, patches, D]."""

    model_type: ClassVar[str] = "llava_onevision"

    def encode(
        self,
        processor: Any,
        config: Any,  # noqa: ARG002 -- positions are plain here
        text: str,
        images: Sequence[Picture],
        videos: Sequence[Frames],
        keys: Sequence[str],
    ) -> Root:
        """Tiles of each image (`pixel_values` [1, tiles, 3, H, W], `image_sizes` [1, 2]), and frames of each video.

        The processor says how many placeholders a medium takes; the prompt is tokenized once with all of them.
        """
        kinds = kinds_in(text, processor, images, videos)
        read: dict[Kind, list[tuple[int, dict[str, Tensor]]]] = {"image": [], "video": []}  # number of placeholders, and tensors
        if images:
            # One sample: the processor reads several images without tiles. Lines hold their placeholders apart.
            lines = "\n".join([processor.image_token] * len(images))
            encoded = processor(text=[lines], images=[list(images)], return_tensors="pt")
            runs = _runs(encoded["input_ids"][0].tolist(), processor.image_token_id)
            for number, run in enumerate(runs):
                read["image"].append((run, {name: encoded[name][number : number + 1] for name in ("pixel_values", "image_sizes")}))
        for video in videos:  # one by one, since the processor can't stack videos of unequal length
            encoded = processor(text=[processor.video_token], videos=[video], do_sample_frames=False, return_tensors="pt")
            (run,) = _runs(encoded["input_ids"][0].tolist(), processor.video_token_id)
            read["video"].append((run, {"pixel_values_videos": encoded["pixel_values_videos"]}))
        order = [(kind, *media.pop(0)) for kind in kinds for media in [read[kind]]]
        marks = {"image": processor.image_token, "video": processor.video_token}
        expanded = iter([marks[kind] * run for kind, run, _ in order])
        text = re.sub("|".join(map(re.escape, marks.values())), lambda _: next(expanded), text)
        media = tuple(Medium(kind, key, tensors) for key, (kind, _, tensors) in zip(keys, order, strict=True))
        return Root(tuple(processor.tokenizer(text)["input_ids"]), media)

    def variants(self, kinds: Sequence[Kind]) -> list[tuple[str, ...]]:
        """Several images of a prompt have no tiles."""
        return [("without tiles",) if kind == "image" and kinds.count("image") > 1 else () for kind in kinds]

    def placeholder_ids(self, config: Any) -> tuple[int, ...]:
        """Image and video placeholders."""
        return config.image_token_id, config.video_token_id

    def vision_tower(self, model: Any, media: Sequence[Medium]) -> list[VisionOutput]:
        """The vision tower's selected hidden states; one pass reads the real tiles or frames of all media."""
        tiles = [self._tiles(model, medium) for medium in media]
        outputs = model.model.vision_tower(torch.cat(tiles), output_hidden_states=True, return_dict=True)
        layer = model.config.vision_feature_layer
        layers = [layer] if isinstance(layer, int) else layer
        selected = torch.cat([outputs.hidden_states[number] for number in layers], dim=-1)
        if model.config.vision_feature_select_strategy == "default":
            selected = selected[:, 1:]
        return [(part,) for part in torch.split(selected, [len(part) for part in tiles])]

    def project(self, model: Any, media: Sequence[Medium], outputs: Sequence[VisionOutput]) -> list[Projected]:
        """Run the projector, then unpad tiles and join them with their base view, or pool frames; a newline ends each medium."""
        inner = model.model
        flat = inner.multi_modal_projector(torch.cat([output[0] for output in outputs]))
        parts = list(torch.split(flat, [len(output[0]) for output in outputs]))
        rows_of: dict[int, Tensor] = {}
        images = [index for index, medium in enumerate(media) if medium.kind == "image"]
        if images:
            # Python reads the sizes, so they do not go to the device.
            sizes = [media[index].tensors["image_sizes"][0].tolist() for index in images]
            packed, _ = inner.pack_image_features([parts[index] for index in images], sizes, image_newline=inner.image_newline)
            rows_of.update(zip(images, packed, strict=True))
        by_frames: dict[int, list[int]] = defaultdict(list)
        for index, medium in enumerate(media):
            if medium.kind == "video":
                by_frames[len(parts[index])].append(index)
        for indices in by_frames.values():
            pooled = inner.apply_pooling(torch.cat([parts[index] for index in indices]))
            pooled = pooled.reshape(len(indices), -1, pooled.shape[-1])
            newline = inner.image_newline[None, None].expand(len(indices), 1, -1).to(pooled.dtype)
            rows_of.update(zip(indices, torch.cat((pooled, newline), dim=1), strict=True))
        return [Projected(rows_of[index]) for index in range(len(media))]

    def modules(self, model: Any) -> dict[Part, list[nn.Module | nn.Parameter]]:
        """The newline vector belongs to the projector, since both were trained together."""
        inner = model.model
        return {
            "tower": [inner.vision_tower],
            "projector": [inner.multi_modal_projector, inner.image_newline],
            "language_model": [inner.language_model],
            "lm_head": [model.lm_head],
        }

    def dummy(self, config: Any) -> Medium:
        """A video of one black frame."""
        size = config.vision_config.image_size
        return Medium("video", "dummy", {"pixel_values_videos": torch.zeros(1, 1, 3, size, size)})

    @staticmethod
    def _tiles(model: Any, medium: Medium) -> Tensor:
        """Real tiles or frames [n, 3, H, W]; there is no padding, since the processor read each prompt alone."""
        name = "pixel_values" if medium.kind == "image" else "pixel_values_videos"
        return medium.tensors[name][0].to(model.device, model.dtype)


def _runs(tokens: list[int], placeholder: int) -> list[int]:
    """Lengths of the runs of a placeholder."""
    return [len(list(run)) for is_placeholder, run in groupby(tokens, placeholder.__eq__) if is_placeholder]
