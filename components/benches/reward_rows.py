"""Rows of three benchmarks of reward models, each a pair of answers of which people prefer one.

- `mm_rlhf`: MM-RLHF-RewardBench (`mm_reward_bench.jsonl`): id, image or video, prompt, chosen, rejected and both critiques. Rows of one id are
  one question; the category is the first of the paper's five that stands in the medium's path.
- `vl_rewardbench`: VL-RewardBench: id, query, image, two responses, and `human_ranking`, whose 0 marks the better one. Three groups by the
  source that the id names.
- `mm_rewardbench`: Multimodal RewardBench (`all_data.json`): ID, Text, Image, Output1, Output2, Better, Category. Safety and reasoning have two
  parts each, which the id tells.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from components.preferences.faults import RowError, shorten, wrong_type
from components.preferences.formats.pieces import Medium, identity, media_of, optional_text, text_of
from components.preferences.record import CATEGORIES
from components.preferences.release import infer_category

BenchFormat = Literal["mm_rlhf", "vl_rewardbench", "mm_rewardbench"]
RANKED = 2  # responses of a row of VL-RewardBench
GENERAL = "general"
VL_GROUPS = {
    "mathverse": "reasoning",
    "mmmu": "reasoning",
    "hallucination": "hallucination",
    "rlhf": "hallucination",
    "rlaif": "hallucination",
    "wildvision": GENERAL,
    "vlfeedback": GENERAL,
}


class PairRow(NamedTuple):
    """One row: the question that it belongs to, its category, and the better and the worse answer with their critiques ("" for none)."""

    id: str
    category: str
    prompt: str
    media: tuple[Medium, ...]
    chosen: str
    rejected: str
    chosen_reason: str = ""
    rejected_reason: str = ""
    clusters: Mapping[str, str] | None = None


def mm_rlhf(row: Mapping[str, Any]) -> PairRow:
    """A row of MM-RLHF-RewardBench, with `clusters` where it has any. Raises RowError."""
    media = (*media_of(row, "image", "image"), *media_of(row, "video", "video"))
    prompt, chosen = text_of(row, "prompt"), text_of(row, "chosen")
    path = media[0].path or "" if media else ""
    inferred = infer_category(prompt, chosen, [medium.kind for medium in media])
    clusters = row.get("clusters")
    if clusters is not None and not (isinstance(clusters, Mapping) and all(isinstance(value, str) for value in clusters.values())):
        raise wrong_type("clusters", clusters, "an object of texts")
    return PairRow(
        _id(row, "id"),
        next((category for category in CATEGORIES if category in path), inferred),
        prompt,
        media,
        chosen,
        text_of(row, "rejected"),
        optional_text(row, "chosen_reason"),
        optional_text(row, "rejected_reason"),
        clusters,
    )


def vl_rewardbench(row: Mapping[str, Any]) -> PairRow:
    """A row of VL-RewardBench. Raises RowError."""
    name, responses, ranking = _id(row, "id"), row.get("response"), row.get("human_ranking")
    if not isinstance(responses, list) or len(responses) != RANKED or not all(isinstance(text, str) for text in responses):
        raise wrong_type("response", responses, "a list of two texts")
    if not isinstance(ranking, list) or sorted(map(str, ranking)) != ["0", "1"]:
        raise RowError("ranking", "human_ranking", f"{shorten(ranking)} is neither [0, 1] nor [1, 0]")
    better = [str(rank) for rank in ranking].index("0")
    source = name.split("-")[0].split("_")[0].lower()
    media = media_of(row, "image", "image")
    return PairRow(name, VL_GROUPS.get(source, GENERAL), text_of(row, "query"), media, responses[better], responses[1 - better])


def mm_rewardbench(row: Mapping[str, Any]) -> PairRow:
    """A row of Multimodal RewardBench. Raises RowError."""
    name, better, category = _id(row, "ID"), row.get("Better"), text_of(row, "Category").lower()
    if better not in ("Output1", "Output2"):  # no set: a stranger's value may have no hash
        raise RowError("ranking", "Better", f"{shorten(better)} is neither Output1 nor Output2")
    if category == "safety":
        category = "safety/bias" if name.lower().startswith("pairs") else "safety/toxicity"
    elif category == "reasoning":
        category = "reasoning/math" if name.lower().startswith("math") else "reasoning/coding"
    worse = "Output2" if better == "Output1" else "Output1"
    return PairRow(name, category, text_of(row, "Text"), media_of(row, "Image", "image"), text_of(row, better), text_of(row, worse))


FORMATS: dict[BenchFormat, Callable[[Mapping[str, Any]], PairRow]] = {
    "mm_rlhf": mm_rlhf,
    "vl_rewardbench": vl_rewardbench,
    "mm_rewardbench": mm_rewardbench,
}


def _id(row: Mapping[str, Any], field: str) -> str:
    name = identity(row, field)
    if name is None:
        raise RowError("missing_field", field, "is missing")
    return name
