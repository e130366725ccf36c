"""What the checkpoints of profiles/ publish: a table of their files' values with their sources, from `published.yaml`.

`mmalign model verify` compares a folder with it; tests/shapes builds checkpoints of these shapes from it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

TABLE = Path(__file__).with_name("published.yaml")
GUESS = "guess"


@dataclass(frozen=True)
class Field:
    """One value of one file: its dotted name, and the key of its source."""

    file: str
    name: str
    value: Any
    source: str


@dataclass(frozen=True)
class Published:
    """One checkpoint: the values of its JSON files by file name, its special tokens, chat template and weight files."""

    name: str
    profile: str
    files: Mapping[str, Mapping[str, Any]]
    tokens: Mapping[str, int]  # added tokens, which follow the ordinary ones
    plain_tokens: tuple[str, ...]  # those of them that a text may hold
    named_tokens: Mapping[str, str]  # attributes of the tokenizer
    eos: str
    pad: str
    template: str
    template_file: str
    shards: int  # weight files
    weight_names: str  # key of the naming that the weight files follow
    fields: tuple[Field, ...]

    @property
    def config(self) -> Mapping[str, Any]:
        """The values of config.json."""
        return self.files["config.json"]

    @property
    def guessed(self) -> list[Field]:
        """The fields that no source states."""
        return [field for field in self.fields if field.source == GUESS]

    def write(self, folder: Path, changes: Mapping[str, Any] | None = None) -> None:
        """Write the JSON files and the chat template, without tokenizer and weights; `changes` replaces fields of config.json by dotted name."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, values in self.files.items():
            content = json.loads(json.dumps(values))
            for field, value in (changes or {}).items() if name == "config.json" else ():
                *path, last = field.split(".")
                owner = content
                for part in path:
                    owner = owner[part]
                owner[last] = value
            (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        text = self.template if self.template_file.endswith(".jinja") else json.dumps({"chat_template": self.template}, indent=2) + "\n"
        (folder / self.template_file).write_text(text, encoding="utf-8")


@cache
def table() -> dict[str, Published]:
    """All checkpoints of the table by name, which is the last part of their id."""
    content = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    return {name: _published(name, entry, content["templates"]) for name, entry in content["checkpoints"].items()}


@cache
def sources() -> dict[str, str]:
    """Each source in words, by its key."""
    return dict(yaml.safe_load(TABLE.read_text(encoding="utf-8"))["sources"])


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of nested settings. Lists are values."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _published(name: str, entry: Mapping[str, Any], templates: Mapping[str, str]) -> Published:
    files = {key: value for key, value in entry.items() if key.endswith(".json")}
    tokenizer, template, weights = entry["tokenizer"], entry["template"], entry["weights"]
    fields = [
        Field(file, field, value, _source(content, field)) for file, content in files.items() for field, value in flatten(content["values"])
    ]
    fields += [
        Field("tokenizer", token, number, tokenizer.get("sources", {}).get(token, tokenizer["source"]))
        for token, number in tokenizer["tokens"].items()
    ]
    fields += [Field("tokenizer", key, tokenizer[key], tokenizer["source"]) for key in ("eos", "pad")]
    fields += [Field("tokenizer", key, value, tokenizer["source"]) for key, value in tokenizer.get("named", {}).items()]
    fields.append(Field(template["file"], "rendering", template["name"], template["source"]))
    fields += [Field("weights", key, weights[key], weights["source"]) for key in ("shards", "names")]
    return Published(
        name=name,
        profile=entry["profile"],
        files={file: content["values"] for file, content in files.items()},
        tokens=tokenizer["tokens"],
        plain_tokens=tuple(tokenizer.get("plain", ())),
        named_tokens=tokenizer.get("named", {}),
        eos=tokenizer["eos"],
        pad=tokenizer["pad"],
        template=templates[template["name"]],
        template_file=template["file"],
        shards=weights["shards"],
        weight_names=weights["names"],
        fields=tuple(fields),
    )


def _source(content: Mapping[str, Any], field: str) -> str:
    """The source of a field: its own, or that of a group that it belongs to, or the file's."""
    own = content.get("sources", {})
    parts = field.split(".")
    names = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
    return str(next((own[name] for name in names if name in own), content["source"]))
