"""What the model is given of one row, for people: its pictures as read, its texts with their special tokens, and where loss is taken.

Pixels, tokens and branches come from the code that training runs, so that what is shown is what is trained. The row passes the checks of its
media first, within validation's bounds.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from components.checkout import Checkout
from components.config.settings import Settings
from components.errors import UserError
from components.families.processing import Preprocessor
from components.files import write_atomic, write_json
from components.preferences.faults import RowError
from components.preferences.json_rows import read_rows
from components.preferences.ranking import UnknownRankingError
from components.preferences.record import Medium, Query
from components.preferences.release import query_from_row
from components.reward.critique_source import annotation_of_rows, choose_source
from components.reward.scoring import judge_branch
from components.trees.scoring import policy_tree
from components.trees.trees import Branch
from components.validation.media import MediaFolder, bounds_of

REPEATED = 4  # equal tokens in a row, from which on a text names one and their number
LOSS, NO_LOSS = "*", " "


@dataclass(frozen=True)
class ShownBranch:
    """One response after its prompt: its tokens as text, those on which loss is taken, and its length with the prompt."""

    response: int
    rank: int
    tokens: list[str]
    loss: list[bool]
    length: int


@dataclass(frozen=True)
class ShownPrompt:
    """What a model reads: the prompt with its special tokens, its length in tokens, and the branches."""

    text: str
    length: int
    branches: list[ShownBranch]


@dataclass(frozen=True)
class Shown:
    """A row as the models are given it. `media` are the files that were written, those of a video in order."""

    id: str
    category: str
    critique_source: str
    max_length: int
    media: list[list[str]]
    policy: ShownPrompt
    judge: ShownPrompt

    @property
    def longest(self) -> int:
        """Tokens of the longest branch with its prompt."""
        return max(branch.length for prompt in (self.policy, self.judge) for branch in prompt.branches)


def show_row(position: str, out: Path, settings: Settings, checkout: Checkout) -> Shown:
    """Write what the models are given of the row at `position` ("FILE:LINE") into the folder `out`: pictures, shown.txt and shown.json.

    Media paths are relative to the file's folder. Raises UserError for a row that can't be used, as validation says it.
    """
    file, line = _position(position)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists and is not an empty folder: name a new folder with --out")
    try:
        query = _examined(_query(file, line, settings), file.parent, settings, checkout)
    except (RowError, UnknownRankingError) as error:
        raise UserError(f"{file}:{line}: {error}") from error
    preprocessor = Preprocessor(checkout.root / settings.model.base, file.parent, settings.model, settings.features)
    media = [_write_medium(out, number, medium, preprocessor) for number, medium in enumerate(query.media, start=1)]
    source = choose_source(settings.reward, annotation_of_rows(file)).critique_source
    policy = policy_tree(preprocessor, query)
    judge = preprocessor.judge_root(query, settings.reward.instruction)
    judged = [_judged(preprocessor, response.text, response.critique, source) for response in query.responses]
    shown = Shown(
        query.id,
        query.category,
        source,
        settings.model.max_length,
        media,
        _prompt(preprocessor, query, policy.root.input_ids, policy.branches),
        _prompt(preprocessor, query, judge.input_ids, judged),
    )
    write_json(out / "shown.json", asdict(shown))
    write_atomic(out / "shown.txt", described(shown))
    return shown


def described(shown: Shown) -> str:
    """What is shown as text: each token on a line of its own, marked where loss is taken."""
    fits = "fits" if shown.longest <= shown.max_length else "is refused"
    lines = [f"{shown.id} ({shown.category}): {shown.longest} tokens of {shown.max_length} (model.max_length), so the row {fits}"]
    lines += [f"medium {number}: {', '.join(files)}" for number, files in enumerate(shown.media, start=1)]
    for name, prompt in (("policy", shown.policy), (f"judge (reward.critique_source {shown.critique_source})", shown.judge)):
        lines += ["", f"== {name}: a prompt of {prompt.length} tokens", prompt.text]
        for branch in prompt.branches:
            lines += [
                "",
                f"-- response {branch.response}, rank {branch.rank}: {branch.length} tokens with the prompt, loss on those with {LOSS}",
            ]
            lines += [f"{LOSS if loss else NO_LOSS} {token!r}" for token, loss in zip(branch.tokens, branch.loss, strict=True)]
    return "\n".join(lines) + "\n"


def _position(position: str) -> tuple[Path, int]:
    name, _, number = position.rpartition(":")
    if not name or not number.isdecimal() or int(number) < 1:
        raise UserError(f"{position!r} names no row: write FILE:LINE, such as data/preferences/data.jsonl:17")
    if not Path(name).is_file():
        raise UserError(f"{name} is no file: name a file of rows, with its media beside it")
    return Path(name).resolve(), int(number)


def _query(file: Path, line: int, settings: Settings) -> Query:
    last = 0
    for read in read_rows(file):
        if read.number == line:
            if read.fault is not None:
                raise read.fault
            assert read.row is not None
            return query_from_row(read.row, listed="order" if settings.validate_.ranking == "order" else "ranks")
        last = read.number
    raise UserError(f"{file.name} has no row that begins in line {line}: its last one begins in line {last}")


def _examined(query: Query, folder: Path, settings: Settings, checkout: Checkout) -> Query:
    if not query.responses:
        raise RowError("few_responses", "models_output", "has no responses")
    media = MediaFolder(folder, bounds_of(settings.validate_), checkout, decoders=1)
    try:
        seen = [media.examine(medium.path, medium.kind) for medium in query.media]
    finally:
        media.close()
    sized = [
        replace(medium, digest=one.digest, size=(one.width, one.height, one.frames)) for medium, one in zip(query.media, seen, strict=True)
    ]
    return replace(query, media=tuple(sized))


def _write_medium(out: Path, number: int, medium: Medium, preprocessor: Preprocessor) -> list[str]:
    if medium.kind == "image":
        names, pictures = [f"medium-{number}.png"], [preprocessor.load_image(medium, blank=False)]
    else:
        pictures = preprocessor.load_frames(medium, blank=False)
        names = [f"medium-{number}/frame-{frame:03d}.png" for frame in range(1, len(pictures) + 1)]
    for name, picture in zip(names, pictures, strict=True):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        picture.save(out / name)
    return names


def _judged(preprocessor: Preprocessor, text: str, critique: str | None, source: str) -> Branch:
    """The branch that the reward model is trained on, as long as it learns from annotated critiques."""
    if source == "none":
        return judge_branch(preprocessor, text, None, learn=False)
    return judge_branch(preprocessor, text, critique or "", learn=bool(critique))


def _prompt(preprocessor: Preprocessor, query: Query, root: Sequence[int], branches: Sequence[Branch]) -> ShownPrompt:
    def text(token: int) -> str:
        return str(preprocessor.tokenizer.decode([token], skip_special_tokens=False))

    shown = [
        ShownBranch(
            number,
            query.responses[number].rank,
            [text(token) for token in branch.input_ids],
            [position >= branch.target_from for position in range(len(branch.input_ids))],
            len(root) + len(branch.input_ids),
        )
        for number, branch in enumerate(branches)
    ]
    return ShownPrompt(_shortened(preprocessor, root), len(root), shown)


def _shortened(preprocessor: Preprocessor, root: Sequence[int]) -> str:
    """A prompt's text, in which a long run of a medium's placeholder stands once, with its length."""
    text = str(preprocessor.tokenizer.decode(list(root), skip_special_tokens=False))
    for token in preprocessor.media_tokens():
        run = re.compile(f"(?:{re.escape(token)}){{{REPEATED},}}")
        text = run.sub(lambda match, token=token: f"{token} x {len(match[0]) // len(token)}", text)  # type: ignore[misc]
    return text
