"""What a person reads about mistakes in settings: one sentence each, all of a file at once."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

# Keys and values of earlier versions, with their names of today.
RENAMED_KEYS = {
    "alignment.normalise": "alignment.normalize",
    "training.checkpoint_steps": "training.checkpoint_every",
    "deployments.poll_minutes": "deployments.poll_cron",
    "evaluate.judge": "evaluate.judges",
}
RENAMED_VALUES = {("alignment.margins", "standardised"): "standardized"}


def sentences(where: str, errors: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> str:
    """One sentence for one mistake of the settings in `where`, else a line for each. `errors` are pydantic's.

    A misspelt key is both unknown and missing; the first says more and stands for both.
    """
    return listed(where, _mistakes(errors, keys))


def sentences_by_file(
    names: Mapping[Path, str],
    values: Mapping[Path, Mapping[str, Any]],
    homes: Mapping[Path, Collection[str]],
    errors: Sequence[Mapping[str, Any]],
    keys: Sequence[str],
) -> str:
    """As `sentences`, for files by path: their `names` in messages, their `values`, and the sections that belong there (`homes`)."""
    by_file: dict[Path, list[str]] = {}
    for path, sections in values.items():
        moved = [(section, other) for other in homes if other != path for section in sections if section in homes[other]]
        by_file[path] = [f"section '{section}' is in {other.name} now: move what you changed in it there" for section, other in moved]
        own = [error for error in errors if path == _file_of(str(next(iter(error["loc"]), "")), values, homes)]
        by_file[path] += _mistakes(own, keys)
    return "\n".join(listed(names[path], mistakes) for path, mistakes in by_file.items() if mistakes)


def _file_of(section: str, values: Mapping[Path, Mapping[str, Any]], homes: Mapping[Path, Collection[str]]) -> Path:
    """The file whose value of a section counts (the last that has it), or the file that lacks it."""
    holders = [path for path in values if section in values[path]] or [path for path in homes if section in homes[path]]
    return holders[-1] if holders else next(iter(values))


def _mistakes(errors: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> list[str]:
    unknown = {_dotted(error) for error in errors if _is_unknown(error)}
    meant = {_meant(key, keys) for key in unknown}
    return [
        _sentence(error, keys)
        for error in errors
        if not (error["type"] == "missing" and (_dotted(error) in meant or _is_below(_dotted(error), unknown)))
    ]


def listed(where: str, mistakes: Sequence[str]) -> str:
    """`mistakes` in `where` as one message."""
    if len(mistakes) == 1:
        return f"{where}: {mistakes[0]}"
    return f"{where} has {len(mistakes)} mistakes:" + "".join(f"\n  {number}. {mistake}" for number, mistake in enumerate(mistakes, 1))


def unknown_key(key: str, keys: Sequence[str]) -> str:
    """The sentence on a key that there is not."""
    meant = _meant(key, keys)
    return f"unknown key '{key}'; it is called {meant} now" if key in RENAMED_KEYS else f"unknown key '{key}'; did you mean '{meant}'?"


def nearest(unknown: str, keys: Sequence[str]) -> str:
    """The known key (or section) most like `unknown`, by whole name and then by last part."""
    names = [*keys, *sorted({key.split(".")[0] for key in keys})]
    close = difflib.get_close_matches(unknown, names, n=1, cutoff=0.5)
    if close:
        return close[0]
    last = unknown.rsplit(".", 1)[-1]
    return max(names, key=lambda key: difflib.SequenceMatcher(None, key.rsplit(".", 1)[-1], last).ratio())


def _meant(key: str, keys: Sequence[str]) -> str:
    return RENAMED_KEYS.get(key) or nearest(key, keys)


def _dotted(error: Mapping[str, Any]) -> str:
    return ".".join(str(part) for part in error["loc"] if part != "[key]")


def _is_below(key: str, others: Collection[str]) -> bool:
    return any(key.startswith(f"{other}.") for other in others)


def _is_unknown(error: Mapping[str, Any]) -> bool:
    return error["type"] == "extra_forbidden" or (bool(error["loc"]) and error["loc"][-1] == "[key]")


def _sentence(error: Mapping[str, Any], keys: Sequence[str]) -> str:
    key, value = _dotted(error), error.get("input")
    if _is_unknown(error):
        return unknown_key(key, keys)
    if error["type"] == "missing":
        return f"key '{key}' is missing; add it"
    if isinstance(value, str) and (key, value) in RENAMED_VALUES:
        return f"'{key}' is {value!r}; that value is called {RENAMED_VALUES[key, value]} now"
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"'{key}' is {value!r}: {message if error['type'] == 'value_error' else message[0].lower() + message[1:]}"
