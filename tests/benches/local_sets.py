"""Rows of our own in the layout of the sets behind MM-RLHF-SafetyBench, MMHal-Bench and Object HalBench: `.mmalign/bench/data/OWNER/NAME`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from components.benches.judged_tasks import DEFINITIONS

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
PICTURE = {"info": {"features": {"image": {"_type": "Image"}}}}  # what makes `datasets` read the column as pictures


def jailbreak(number: int, question: str, kind: str) -> dict[str, Any]:
    """A row of one of the three sets of jailbreaks."""
    head = {"question_id": number, "category": f"safety/{kind}", "l2-category": "own", "answer": "No", "extra": None}
    return {**head, "question": question, "label": f"Explain how to {question.removesuffix('?').split(' to ', 1)[-1]}"}


def rows_of(harmful: Sequence[str], colors: Sequence[tuple[str, str]]) -> dict[str, list[dict[str, Any]]]:
    """Rows by task: requests that a model should refuse, and (question about a picture, its answer)."""

    def adversarial(answer: str) -> list[dict[str, Any]]:
        head = {"category": f"robustness/adversarial-{answer}", "l2-category": "own", "answer": answer, "extra": None}
        return [
            {**head, "question_id": n, "question": question, "label": text.rstrip(".").split()[-1]}
            for n, (question, text) in enumerate(colors)
        ]

    risk = [
        {"question_id": n, "category": "safety/risk-identification", "l2-category": "own", "answer": "Yes", "label": ""}
        | {"question": question, "extra": {"QUESTION": question, "EXPECTED_KEYWORDS": text.rstrip(".").split()[-1]}}
        for n, (question, text) in enumerate(colors)
    ]
    mmhal = [
        {
            "question_type": kind,
            "question_topic": "shapes",
            "image_content": text.rstrip(".").split()[-1:],
            "question": question,
            "gt_answer": text,
        }
        for (question, text), kind in zip(colors, ("attribute", "counting") * len(colors), strict=False)
    ]
    return {
        "safetybench_adv_target": adversarial("target"),
        "safetybench_adv_untarget": adversarial("untarget"),
        "safetybench_crossmodel": [jailbreak(n, text, "crossmodal-jailbreak") for n, text in enumerate(harmful)],
        "safetybench_multimodel": [jailbreak(n, text, "multimodal-jailbreaking") for n, text in enumerate(harmful)],
        "safetybench_typographic": [jailbreak(n, text, "typographic-jailbreaking") for n, text in enumerate(harmful)],
        "safetybench_risk": risk,
        "safetybench_nsfw_text": [{"id": str(n), "question": text, "answer": ""} for n, text in enumerate(harmful)],
        "safetybench_nsfw_image": [{"id": str(n), "question": text, "answer": ""} for n, text in enumerate(harmful)],
        "mmhal_bench": mmhal,
        "object_hal": [
            {"question": "Describe this image in detail.", "objects": ["dining table", "cup"]},
            {"question": "Describe this image.", "objects": []},
        ],
    }


def write_sets(folder: Path, rows: Mapping[str, Sequence[Mapping[str, Any]]], picture: Callable[[int], bytes]) -> None:
    """Write each task's rows, with a picture in every row, as the Parquet files that the hub has."""
    for task, values in rows.items():
        text = (DEFINITIONS / f"{task}.yaml").read_text(encoding="utf-8")
        name = next(line.split(": ")[1] for line in text.splitlines() if line.startswith("dataset_path"))
        pictures = pa.array([{"bytes": picture(n), "path": None} for n in range(len(values))], IMAGE)
        table = pa.Table.from_pylist(list(values)).append_column("image", pictures)
        features = json.dumps({"info": {"features": {**_features(table), **PICTURE["info"]["features"]}}})
        target = folder / name / "data/train-00000-of-00001.parquet"
        target.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table.replace_schema_metadata({"huggingface": features}), target)


def _features(table: pa.Table) -> dict[str, Any]:
    """The columns as `datasets` describes them."""
    return {field.name: _feature(field.type) for field in table.schema if field.name != "image"}


def _feature(kind: pa.DataType) -> dict[str, Any] | list[Any]:
    if pa.types.is_struct(kind):
        return {field.name: _feature(field.type) for field in kind}
    if pa.types.is_list(kind):
        return {"_type": "List", "feature": _feature(kind.value_type)}
    return {"_type": "Value", "dtype": "null" if pa.types.is_null(kind) else "int64" if pa.types.is_integer(kind) else "string"}
