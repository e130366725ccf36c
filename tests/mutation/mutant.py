"""A mutant: one edit of a source file, with a digest by which docs/mutants.md names it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256


@dataclass(frozen=True)
class Mutant:
    """One edit: the characters from `start` to `end` of a file become `text`.

    `before` and `after` are the lines that it changes, on one line. `first` to `last` are the lines of the statement around it, which a test must
    reach to notice; `shared` says that they run at import or once in a process, so that a trace doesn't say for which tests.
    """

    path: str
    line: int
    operator: str
    start: int
    end: int
    text: str
    before: str
    after: str
    first: int
    last: int
    shared: bool
    digest: str = ""

    def apply(self, source: str) -> str:
        """The file's text with this edit."""
        return source[: self.start] + self.text + source[self.end :]


def digested(edits: Sequence[Mutant]) -> list[Mutant]:
    """With a digest of file name, operator, lines before and after, and how many equal ones stand above: it survives moved lines."""
    seen: defaultdict[tuple[str, ...], int] = defaultdict(int)
    result = []
    for mutant in edits:
        key = (mutant.path.rpartition("/")[2], mutant.operator, mutant.before, mutant.after)
        digest = sha256("\0".join((*key, str(seen[key]))).encode()).hexdigest()[:10]
        seen[key] += 1
        result.append(Mutant(**{**vars(mutant), "digest": digest}))
    return result
