"""The workload of a run: queries, media and tokens, estimated from data/preferences without a tokenizer.

Text tokens are characters divided by a constant; media tokens follow from the pixels of a sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.checkout import Checkout
from components.config.settings import Settings
from components.preferences.json_rows import read_rows
from components.rehearsal.media import MediumSize, image_size, processor_limits, video_size
from components.rehearsal.parameters import Architecture
from components.reward.critique_source import Annotation, annotation_of_row

CHARACTERS_A_TOKEN = 3.5  # English prose under the families' byte-pair tokenizers, with their special tokens
SAMPLED_MEDIA = 200
NO_ROWS = Annotation(0, 0)
ASSUMED_IMAGE = (640, 480)  # pixels, where no data exist yet


@dataclass(frozen=True)
class Workload:
    """Counts of the rows of data.jsonl, and the mean costs of a query's medium. `queries` is 0 where no data exist yet.

    `responses` and `media` count those of held-out rows too: their log-probs, critiques and features are stored as well.
    """

    queries: int
    responses: int
    media: int
    tree_tokens: float  # a query's prompt, medium and responses as one sequence
    medium: MediumSize
    source: str
    training_share: float = 1.0  # of the queries: all where a file of held-out rows lies beside them
    annotation: Annotation = NO_ROWS  # of the rows' responses; `responses` 0 where no data exist yet


def read_workload(checkout: Checkout, settings: Settings, model: Architecture) -> Workload:
    """Read the rows' texts and the pixels of a sample of their media."""
    folder = checkout.preferences
    limits = processor_limits(checkout.root / settings.model.base)
    rows = list(_rows(folder, "data.jsonl", "dpo_pairs.jsonl"))
    if not rows:
        medium = image_size(model, *ASSUMED_IMAGE, limits)
        return Workload(0, 0, 0, 0.0, medium, "no rows in data/preferences: a query with one image of 640 x 480 is assumed")
    texts = [(asked_characters(row), _answers(row)) for row in rows]
    heldout = list(_rows(folder, "heldout.jsonl"))
    media = sorted({path for row in (*rows, *heldout) for path in media_of(row)})
    step = max(1, len(media) // SAMPLED_MEDIA)
    sizes = [size for path in media[::step] if (size := medium_size(folder / path, settings, model, limits)) is not None]
    medium = _mean(sizes) if sizes else MediumSize(0, 0, 0)
    media_a_row = sum(len(media_of(row)) for row in rows) / len(rows)
    answers = sum(length for _, length in texts) / len(rows) / CHARACTERS_A_TOKEN
    prompt = sum(length for length, _ in texts) / len(rows) / CHARACTERS_A_TOKEN
    tokens = prompt + answers + media_a_row * medium.tokens
    source = f"{len(rows):,} rows and {len(media):,} media of data/preferences, pixels of {len(sizes):,} of them"
    responses = sum(len(_outputs(row)) for row in (*rows, *heldout))
    share = 1.0 if (folder / "heldout.jsonl").is_file() else 1 - settings.validate_.heldout_share
    annotated = [annotation_of_row(row) for row in rows]
    annotation = Annotation(sum(one.responses for one in annotated), sum(one.critiques for one in annotated))
    return Workload(len(rows), responses, len(media), tokens, medium, source, share, annotation)


def _rows(folder: Path, *names: str) -> Iterator[Mapping[str, Any]]:
    """The rows of the first of the named files that exists."""
    for name in names:
        if (folder / name).is_file():
            # Validation names broken rows; a plan only counts.
            yield from (line.row for line in read_rows(folder / name) if line.row is not None)
            return


def media_of(row: Mapping[str, Any]) -> list[str]:
    """The paths of a row's images and videos."""
    values = [row.get("image"), row.get("video")]
    return [path for value in values for path in (value if isinstance(value, list) else [value]) if path and isinstance(path, str)]


def asked_characters(row: Mapping[str, Any]) -> int:
    """The characters of all turns of a row, about."""
    turns = row.get("conversations") or row.get("messages")
    texts = [turn.get("value") or turn.get("content") for turn in turns if isinstance(turn, dict)] if isinstance(turns, list) else []
    return sum(len(str(text)) for text in [*texts, row.get("question") or row.get("prompt") or ""])


def _answers(row: Mapping[str, Any]) -> int:
    return sum(len(str(output)) for output in _outputs(row))


def _outputs(row: Mapping[str, Any]) -> list[Any]:
    outputs = row.get("models_output") or [row.get("chosen") or "", row.get("rejected") or ""]
    return outputs if isinstance(outputs, list) else [outputs]


def medium_size(path: Path, settings: Settings, model: Architecture, limits: Mapping[str, Any]) -> MediumSize | None:
    """The costs of the image or folder of frames at `path` by its (first) header; None where it can't be read."""
    from components.preferences.frames import frame_names
    from components.preferences.media import picture_size

    if not path.is_dir() and not path.is_file():
        return None
    try:
        frames = frame_names(path) if path.is_dir() else []
        width, height = picture_size(path / frames[0] if frames else path)
    except (OSError, ValueError):  # a MediaError is one; so are names that no file can have
        return None
    if frames:
        return video_size(model, width, height, min(len(frames), settings.model.max_frames), limits)
    return image_size(model, width, height, limits)


def _mean(sizes: list[MediumSize]) -> MediumSize:
    columns = zip(*((size.patches, size.cached, size.tokens) for size in sizes), strict=True)
    patches, cached, tokens = (round(sum(column) / len(sizes)) for column in columns)
    return MediumSize(patches, cached, tokens)
