"""What held-out rows share with training rows.

- A row leaks if a medium of it, or its group, stands in training: a model may answer it from memory.
- A near-duplicate is a row whose picture's fingerprint is near one in training: shown, since only a person can say whether it is the same one.
- A wording that both sides share is no leak: people ask the same about different pictures. It is shown, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from components.errors import UserError
from components.validation.perceptual import near_pictures
from components.validation.summary import Summary

LINES_SHOWN = 3


@dataclass(frozen=True)
class Leakage:
    """Held-out rows, of `rows`, that share something with training: counts, and the leaking rows themselves."""

    rows: int
    leaking: list[Summary]
    pictures: int
    groups: int
    near_pictures: int
    near_duplicates: int
    shared_wordings: int

    def metrics(self) -> dict[str, float | int | None]:
        """The counts by the names of the stage's metrics."""
        return {
            "leaked_queries": len(self.leaking),
            "leaked_share": len(self.leaking) / self.rows,
            "leaked_pictures": self.pictures,
            "leaked_groups": self.groups,
            "near_pictures": self.near_pictures,
            "near_duplicates": self.near_duplicates,
            "shared_wordings": self.shared_wordings,
        }


def find_leakage(train: Sequence[Summary], heldout: Sequence[Summary]) -> Leakage:
    """Compare both sides."""
    pictures = {picture for row in train for picture in row.pictures}
    groups = {row.group for row in train} - {None}
    wordings = {row.wording for row in train}
    by_picture = [row for row in heldout if not pictures.isdisjoint(row.pictures)]
    by_group = [row for row in heldout if row.group in groups]
    leaking = sorted({id(row): row for row in (*by_picture, *by_group)}.values(), key=lambda row: row.line)
    near, same_wording = near_rows(train, heldout)
    return Leakage(
        rows=len(heldout),
        leaking=leaking,
        pictures=len(by_picture),
        groups=len(by_group),
        near_pictures=near,
        near_duplicates=same_wording,
        shared_wordings=sum(row.wording in wordings for row in heldout),
    )


def near_rows(train: Sequence[Summary], heldout: Sequence[Summary]) -> tuple[int, int]:
    """Held-out rows with a picture that is near one in training and is another file: all, and those of the same wording."""
    trained = {picture: fingerprint for row in train for picture, fingerprint in zip(row.pictures, row.fingerprints, strict=True)}
    others = {picture: fingerprint for row in heldout for picture, fingerprint in zip(row.pictures, row.fingerprints, strict=True)}
    near = near_pictures({picture: fingerprint for picture, fingerprint in others.items() if picture not in trained}, trained)
    wordings: dict[str, set[str]] = {}
    for row in train:
        for picture in row.pictures:
            wordings.setdefault(picture, set()).add(row.wording)
    affected = [row for row in heldout if any(near.get(picture) for picture in row.pictures)]
    same = [row for row in affected if any(row.wording in wordings[other] for picture in row.pictures for other in near.get(picture, ()))]
    return len(affected), len(same)


def check_leakage(file: str, leakage: Leakage, limit: float) -> None:
    """Raises UserError if more than `limit` of the rows in the held-out `file` leak."""
    leaking = leakage.leaking
    if len(leaking) <= limit * leakage.rows:
        return
    lines = ", ".join(f"line {row.line} ({row.id!a})" for row in leaking[:LINES_SHOWN])
    raise UserError(
        f"{file}: {len(leaking)} of {leakage.rows} rows share media ({leakage.pictures}) or a group ({leakage.groups}) with training rows"
        f" ({len(leaking) / leakage.rows:.1%}, validate.max_leaked_share allows {limit:.1%}), first {lines}: move those rows or their training"
        " rows, or remove the file, so that validation splits by medium and group"
    )
