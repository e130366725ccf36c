"""The base as a standard checkpoint folder, which plain AutoModelForImageTextToText and AutoProcessor open offline."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from demo.architecture import IMAGE, PATCH
from demo.text import CHAT_TEMPLATE, END, IMAGE_TOKEN, PAD, VIDEO_TOKEN


def build_processor(tokenizer: Any) -> Any:
    """The family's own processor for 64-pixel images and clips around `tokenizer`."""
    from transformers import LlavaOnevisionImageProcessor, LlavaOnevisionProcessor, LlavaOnevisionVideoProcessor

    size = {"height": IMAGE, "width": IMAGE}
    half = [0.5, 0.5, 0.5]
    images = LlavaOnevisionImageProcessor(
        size=size, image_grid_pinpoints=[[IMAGE, IMAGE]], image_mean=half, image_std=half, do_convert_rgb=True
    )
    videos = LlavaOnevisionVideoProcessor(size=size, image_mean=half, image_std=half)
    return LlavaOnevisionProcessor(
        image_processor=images,
        video_processor=videos,
        tokenizer=tokenizer,
        num_image_tokens=(IMAGE // PATCH) ** 2,
        vision_feature_select_strategy="full",
        chat_template=CHAT_TEMPLATE,
        image_token=IMAGE_TOKEN,
        video_token=VIDEO_TOKEN,
    )


def token_ids(tokenizer: Any) -> dict[str, int]:
    """The ids that the model's configuration names."""
    return {
        name: int(tokenizer.convert_tokens_to_ids(token))
        for name, token in (("image", IMAGE_TOKEN), ("video", VIDEO_TOKEN), ("pad", PAD), ("end", END))
    }


def save_checkpoint(model: Any, processor: Any, folder: Path) -> None:
    """Write the whole folder under a temporary name, then swap it in: a reader sees the old folder or the new one."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    temporary.chmod(0o755)
    tokens = token_ids(processor.tokenizer)
    model.generation_config.eos_token_id = tokens["end"]
    model.generation_config.pad_token_id = tokens["pad"]
    processor.save_pretrained(temporary)
    model.save_pretrained(temporary)
    replace_folder(temporary, folder)


def replace_folder(new: Path, target: Path) -> None:
    """Rename the folder `new` to `target` and remove the old content of `target`."""
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    new.rename(target)
    shutil.rmtree(old, ignore_errors=True)
