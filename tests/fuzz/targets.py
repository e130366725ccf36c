"""The parsers of strangers' input, each with what it may raise. Any other exception is a finding."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from pydantic import ValidationError

from components.errors import UserError
from components.families.template_process import CPU_SECONDS
from components.preferences.bounds import MediaError
from components.preferences.faults import RowError
from tests.fuzz import answers, checkpoints, inputs, packed, rows, words
from tests.fuzz.watch import SECONDS, watched

CORPUS = Path(__file__).parent / "corpus"
TEMPLATE_SECONDS = 4 * CPU_SECONDS  # a template is rendered several times, each time within its own limit


@dataclass(frozen=True)
class Target:
    """A parser of bytes, the exceptions that it documents, good inputs, a strategy that makes others, and the seconds that an input may take."""

    parse: Callable[[bytes], object]
    documented: tuple[type[Exception], ...]
    good: Sequence[bytes]
    made: st.SearchStrategy[bytes]
    name: str = ""
    seconds: float = SECONDS

    def run(self, content: bytes) -> None:
        """Parse; raises what is not documented, TooSlow and TooLarge."""
        with watched(self.seconds):
            try:
                self.parse(content)
            except self.documented:
                return

    @cached_property
    def inputs(self) -> st.SearchStrategy[bytes]:
        """What hypothesis tries: what is made, and the good and stored inputs changed."""
        return st.one_of(self.made, inputs.changed_bytes([*self.good, *self.stored()]))

    def stored(self) -> list[bytes]:
        """The inputs of this target in the corpus."""
        return [path.read_bytes() for path in sorted((CORPUS / self.name).glob("*"))] if self.name else []


def _of_files(parse: Callable[[bytes], object], good: Sequence[bytes], *documented: type[Exception]) -> Target:
    return Target(parse, documented or (UserError,), good, st.sampled_from(list(good)))


def _of_json(parse: Callable[[bytes], object], good: Sequence[Any], *documented: type[Exception]) -> Target:
    return Target(parse, documented or (UserError,), [words.json_text(value) for value in good], inputs.json_files(*good))


def _of_rows(parse: Callable[[bytes], object], good: Sequence[Any], *documented: type[Exception]) -> Target:
    """Rows, a line each, in an array, or over several lines."""
    one = inputs.json_files(*good)
    several = st.tuples(one, one, st.sampled_from([(b"", b"\n", b""), (b"[", b",", b"]"), (b"\xef\xbb\xbf", b"\r\n", b"")])).map(
        lambda drawn: drawn[2][0] + drawn[0] + drawn[2][1] + drawn[1] + drawn[2][2]
    )
    lines = b"\n".join(inputs.encoded(value) for value in good) + b"\n"
    return Target(parse, documented or (UserError,), [lines, words.json_text(list(good))], st.one_of(one, several))


def _of_parts(parse: Callable[[bytes], object], texts: dict[str, Any], others: dict[str, bytes]) -> Target:
    """Checkpoints that are good but for one file."""
    made = [
        inputs.json_files(value).map(lambda content, name=name: checkpoints.named(name, content))  # type: ignore[misc]
        for name, value in texts.items()
    ]
    good = [checkpoints.named(name, words.json_text(value)) for name, value in texts.items()]
    good += [checkpoints.named(name, content) for name, content in others.items()]
    return Target(parse, (UserError,), good, st.one_of(made))


def _weights() -> st.SearchStrategy[bytes]:
    headers = inputs.changed_values([checkpoints.HEADER, {"__metadata__": {"format": "pt"}, **checkpoints.HEADER}])
    return st.builds(checkpoints.safetensors, headers, st.integers(0, 64)).map(lambda file: checkpoints.named("model.safetensors", file))


def _templates() -> Target:
    from tests.tiny import TEMPLATE

    pieces = st.sampled_from(
        ["{{ x }}", "{% for a in messages %}", "{% endfor %}", "{{ messages }}", "{{ messages[0].content[0].text }}", "<a>", "{%"]
    )
    made = st.lists(st.one_of(pieces, st.text(max_size=5)), max_size=6).map(lambda parts: "".join(parts).encode(errors="replace"))
    return Target(checkpoints.template, (UserError,), [TEMPLATE.encode()], made, seconds=TEMPLATE_SECONDS)


def _checkpoint() -> Target:
    of = _of_parts(checkpoints.checkpoint, checkpoints.TEXTS, {"model.safetensors": checkpoints.WEIGHTS, "README.md": checkpoints.README})
    return replace(of, made=st.one_of(of.made, _weights()))


RANKINGS = ([[1, 2, 2], 3, False], ["1>2", 2, True], [[0, 1], 2, True], [{"a": 1}, 2, False])
SAVED = {"dataset_dict.json": {"splits": ["train"]}, "train/state.json": {"_data_files": [{"filename": "a.arrow"}]}}
MAKERS: dict[str, Callable[[], Target]] = {  # functions, since some targets need libraries that take seconds to load
    "rows": lambda: _of_rows(rows.row_file, (rows.ROW, rows.VIDEO_ROW, rows.CHAT_ROW)),
    "rankings": lambda: _of_json(rows.ranking, RANKINGS, RowError, UserError),
    "pairs": lambda: _of_json(rows.pair, rows.PAIRS),
    "tables": lambda: _of_files(rows.table, rows.tables(), UserError, RowError),
    "data_sets": lambda: _of_json(rows.saved_data_set, (SAVED,)),
    "ground_truth": lambda: _of_rows(rows.ground_truth, (rows.GROUND_TRUTH,)),
    "labels": lambda: _of_rows(rows.labels, rows.LABELS),
    "benches": lambda: _of_rows(rows.bench, rows.BENCHES),
    "expansions": lambda: _of_rows(rows.expansions, (rows.EXPANSION,)),
    "config": lambda: _of_json(checkpoints.config, (checkpoints.CONFIG,)),
    "checkpoint": _checkpoint,
    "adapters": lambda: _of_parts(checkpoints.adapters, checkpoints.ADAPTER_TEXTS, {}),
    "processor": lambda: _of_parts(checkpoints.processor, checkpoints.processors(), {}),
    "templates": _templates,
    "archives": lambda: Target(packed.archive, (UserError, RowError), packed.archives(), packed.made_archives()),
    "pictures": lambda: _of_files(checkpoints.picture, checkpoints.pictures(), MediaError),
    "params": lambda: _of_json(words.params, (words.PARAMS,)),
    "ops": lambda: _of_json(words.ops, (words.OPS,)),
    "overrides": lambda: _of_files(words.overrides, words.ASSIGNMENTS),
    "run_parameters": lambda: _of_json(words.run_parameters, (words.PARAMETERS,), ValidationError, UserError),
    "rules": lambda: _of_json(words.rules, (words.RULES,)),
    "catalogue": lambda: _of_json(words.catalogue, (words.BENCHMARKS,), ValidationError, UserError),
    "results": lambda: _of_json(words.results, (words.RESULTS,)),
    "backup": lambda: _of_json(words.backup, (words.BACKUP,)),
    "responses": lambda: _of_json(answers.response, answers.RESPONSES),
    "sheets": lambda: _of_json(answers.sheet, (json.loads((words.ROOT / "judges/sheets/rules.json").read_text()),)),
    "words": lambda: _of_files(words.words, [text.encode() for text in words.WORDS]),
}


@cache
def target(name: str) -> Target:
    """The target of this name."""
    return replace(MAKERS[name](), name=name)
