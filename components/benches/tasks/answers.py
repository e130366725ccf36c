"""The functions of `_answers.yaml`, in the form that lmms-eval calls them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

Doc = Mapping[str, Any]


def visual(doc: Doc) -> list[Any]:
    """The row's picture; a row without one is a question in words alone."""
    picture = doc.get("image")
    return [] if picture is None else [picture.convert("RGB")]


def text(doc: Doc, lmms_eval_specific_kwargs: Any = None) -> str:
    """The question as it stands."""
    del lmms_eval_specific_kwargs
    return str(doc["question"])


def target(doc: Doc) -> str:
    """What the judge reads of the row, as JSON: all but the picture. lmms-eval's samples have the target, and not the row."""
    return json.dumps({name: value for name, value in doc.items() if name != "image"}, ensure_ascii=False)


def answered(_: Doc, results: Sequence[str]) -> dict[str, float]:
    """Whether there is an answer."""
    return {"answered": float(bool(results[0].strip()))}
