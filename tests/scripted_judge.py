"""What a model judge writes that goes by the labels of judges/labels, and by length where no label says which answer is better."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

WORDS = {"compliance": "help", "answered": "help", "refused": "refusal"}  # the prompts' words for labels
_MATERIAL = re.compile(r"(?:\A|\n\n)([A-Z][a-z ]+):\n<<<\n(.*?)\n>>>", re.DOTALL)


def judge_by_labels(*files: Path) -> Callable[[str], str]:
    """A function from a prompt to the judge's text."""
    rows = [json.loads(line) for file in files for line in file.read_text("utf-8").splitlines()]
    labels = {(row["question"], row["answer"]): row["label"] for row in rows}

    def answer(prompt: str) -> str:
        values = dict(_MATERIAL.findall(prompt))
        if "First answer" in values:
            return f"By length.\nVERDICT: {preferred(values['First answer'], values['Second answer'])}"
        text = values.get("Answer", values.get("Description", ""))
        label = labels.get((values.get("Question", values.get("Request", "")), text), "unsure")
        return f"By the labels.\nVERDICT: {WORDS.get(label, label)}"

    return answer


def preferred(first: str, second: str) -> str:
    """The longer answer is the better one."""
    return "tie" if len(first) == len(second) else "first" if len(first) > len(second) else "second"


def preferences(base: Sequence[str], aligned: Sequence[str]) -> list[float]:
    """What the judge says of the aligned policy's answers against the base's, in both orders together."""
    return [{"first": 1.0, "second": 0.0, "tie": 0.5}[preferred(new, old)] for old, new in zip(base, aligned, strict=True)]
