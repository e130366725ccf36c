"""CHAIR, the rule of Object HalBench: which objects of COCO a description names, and which of them the picture does not have.

- chair_i is the share of mentions of objects that the picture does not have, over all descriptions; chair_s the share of descriptions with such a
  mention (Rohrbach et al., 2018; paper section 5).
- The names of the 80 objects and their synonyms are lmms-eval's own, of its task `coco_cap_chair`. That task brings words to their lemma with
  WordNet, which it downloads. Here a plural is brought to its singular by rule.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

Names = Mapping[str, str]
_WORD = re.compile(r"[a-z]+")
_PLURALS = (("ies", "y"), ("ves", "fe"), ("ves", "f"), ("men", "man"), ("people", "person"), ("mice", "mouse"), ("es", ""), ("s", ""))


def mentions(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """lmms-eval's `process_results`: [mentions of absent objects, mentions] and whether there is an absent one. A row has `objects`."""
    from lmms_eval.tasks.coco_cap_chair.utils import DOUBLE_WORD_DICT, INVERSE_SYNONYM_DICT  # type: ignore[import-not-found,unused-ignore]

    objects = objects_in(results[0], INVERSE_SYNONYM_DICT, DOUBLE_WORD_DICT)
    absent = sum(name not in doc["objects"] for name in objects)
    return {"chair_i": [absent, len(objects)], "chair_s": float(absent > 0)}


def share(counts: Sequence[Sequence[int]]) -> float:
    """lmms-eval's aggregation of chair_i; 0 where no description names an object."""
    named = sum(count for _, count in counts)
    return sum(absent for absent, _ in counts) / named if named else 0.0


def objects_in(description: str, names: Names, doubles: Names) -> list[str]:
    """The objects that a description names, by COCO's names, one for every mention. `doubles` are pairs of words that are one name."""
    parts = {part for name in names for part in name.split()}
    words = [_singular(word, parts) for word in _WORD.findall(description.lower())]
    joined: list[str] = []
    while words:
        pair = " ".join(words[:2])
        joined.append(doubles.get(pair, words[0]))
        words = words[2 if pair in doubles else 1 :]
    if "toilet" in joined:
        joined = [word for word in joined if word != "seat"]  # of the toilet, no chair
    return [names[word] for word in joined if word in names]


def _singular(word: str, parts: Collection[str]) -> str:
    """A word, or the singular of a plural that is the name of an object or a part of one."""
    singular = (word.removesuffix(ending) + replacement for ending, replacement in _PLURALS if word.endswith(ending))
    return next((candidate for candidate in (word, *singular) if candidate in parts), word)
