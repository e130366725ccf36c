"""The files of data/ that the repository ships, and what of them still lies beside a team's own."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from components.checkout import Checkout

REMOTE = Path("infra/bundled-data/files/md5")  # the remote `bundled`: lists of files end in .dir
ROWS, HELDOUT, GROUND_TRUTH = "preferences/data.jsonl", "preferences/heldout.jsonl", "truth/truth.jsonl"
BASE = "base/"  # the base model is no data of anybody's


@dataclass(frozen=True)
class Mixture:
    """Bundled files beside a team's own rows: the named ones, and how many media."""

    files: tuple[str, ...]
    media: int

    def sentence(self) -> str:
        """What is mixed, and what follows from it."""
        names = " and ".join(f"data/{name}" for name in self.files)
        media = f"{self.media:,} bundled media" if self.media else ""
        judged = {HELDOUT: "the bundled held-out rows", GROUND_TRUTH: "the bundled ground truth"}
        by = " and ".join(judged[name] for name in self.files if name in judged)
        return f"your own rows stand beside {' and '.join(filter(None, (names, media)))}" + (
            f", so that models are judged by {by}, not by yours" if by else ", which no row names"
        )


def bundled_files(checkout: Checkout) -> dict[str, str]:
    """The md5 of each file that the repository ships as data/, by its name there; empty without the remote's folder."""
    files: dict[str, str] = {}
    for path in sorted((checkout.root / REMOTE).glob("*/*.dir")):
        files |= {entry["relpath"]: entry["md5"] for entry in json.loads(path.read_text(encoding="utf-8"))}
    return files


def bundled_present(checkout: Checkout) -> list[str]:
    """The names of bundled files, base model apart, that lie in data/ as they were shipped."""
    return [
        name
        for name, digest in bundled_files(checkout).items()
        if not name.startswith(BASE) and (checkout.data / name).is_file() and md5(checkout.data / name) == digest
    ]


def mixture(checkout: Checkout) -> Mixture | None:
    """The bundled files beside own rows; None where all rows are bundled, or none is."""
    rows, bundled = checkout.data / ROWS, bundled_files(checkout)
    if not rows.is_file() or md5(rows) == bundled.get(ROWS):
        return None
    present = bundled_present(checkout)
    named = tuple(name for name in (HELDOUT, GROUND_TRUTH) if name in present)
    media = sum(name.startswith("preferences/") and not name.endswith(".jsonl") for name in present)
    return Mixture(named, media) if named or media else None


def md5(path: Path) -> str:
    """The digest by which DVC names a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
