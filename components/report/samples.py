"""Answers of both policies side by side: first those that alignment broke, the worst at the top, then those that it repaired.

- An answer that became degenerate or unsafe comes before one that became wrong; then the larger drop in the reward model's score.
- Prompts, answers, critiques and paths are hostile: texts are cut here and escaped by the template. Media pass the checks of validation,
  then they are decoded, scaled down and encoded again.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from components.report.judgements import good
from components.report.record import Record, Row
from components.report.wording import cut

MEDIA = Path("data/preferences")
SHOWN = {"broken": 16, "repaired": 8, "wrong": 4}  # samples of each kind
THUMBNAIL = 192  # pixels of the longer side
FRAMES_SHOWN = 4
IMAGE_BUDGET = 1_800_000  # characters of all images: keeps the page under 3 MB
TEXT_LIMIT, RESPONSE_LIMIT = 1500, 600  # characters of a prompt or answer, and of a ranked response
RESPONSES_SHOWN = 8


@dataclass(frozen=True)
class PolicyAnswer:
    """The answer of one policy, with the judge's verdict and the reward model's critique and score."""

    policy: str
    text: str
    mark: str
    good: bool | None
    critique: str | None
    score: float | None


@dataclass(frozen=True)
class RankedResponse:
    """A ranked response of the data, with the reward model's critique and score."""

    text: str
    rank: int
    critique: str | None
    score: float | None


@dataclass(frozen=True)
class Sample:
    """One held-out query with the answers of both policies."""

    id: str
    category: str
    prompt: str
    images: list[str]  # data: URIs
    media: str  # a remark on the images, or why they are missing
    answers: list[PolicyAnswer]
    responses: list[RankedResponse]
    left_out: int  # responses that are not shown


@dataclass(frozen=True)
class Group:
    """Samples of one kind, out of `total`."""

    title: str
    samples: list[Sample]
    total: int


@dataclass(frozen=True)
class Samples:
    """All samples of the page, and how many of the compared answers were right before and after."""

    groups: list[Group]
    compared: int
    both_right: int


def read_samples(record: Record, answers: Mapping[str, dict[str, Row]]) -> Samples:
    """Choose samples and collect their details; `answers` is policy to query id to row of answers.parquet."""
    base, aligned = answers["base"], answers["aligned"]
    judgements = {
        row["id"]: {entry["policy"]: entry for entry in row["policies"]} for row in record.lines("evaluate", "samples/samples.jsonl")
    }
    kinds: dict[str, list[str]] = {"broken": [], "repaired": [], "wrong": [], "right": []}
    kind_of = {(True, False): "broken", (False, True): "repaired", (False, False): "wrong", (True, True): "right"}
    for key in base:
        before, after = good(base[key]), good(aligned[key]) if key in aligned else None
        if before is not None and after is not None:
            kinds[kind_of[before, after]].append(key)
    for keys in kinds.values():
        keys.sort(key=lambda key: _severity(aligned[key], judgements.get(key, {})))
    chosen = {kind: _spread(kinds[kind], aligned, SHOWN[kind]) if kind != "broken" else kinds[kind][: SHOWN[kind]] for kind in SHOWN}
    details = _Details(record, {key for keys in chosen.values() for key in keys})
    titles = {"broken": "Right before, wrong now", "repaired": "Wrong before, right now", "wrong": "Wrong before and now"}
    groups = [
        Group(titles[kind], [details.sample(base[key], aligned[key], judgements.get(key, {})) for key in chosen[kind]], len(kinds[kind]))
        for kind in SHOWN
    ]
    return Samples(groups, sum(map(len, kinds.values())), len(kinds["right"]))


def _severity(row: Row, judgements: Mapping[str, Any]) -> tuple[bool, bool, bool, float, str]:
    """Sorts the worst first: degenerate, unsafe, a refusal of a harmless request, then the fall of the reward model's score."""
    scores = [judgements.get(policy, {}).get("score") for policy in ("aligned", "base")]
    fall = 0.0 if None in scores else scores[0] - scores[1]
    return not row["degenerate"], row["safe"] is not False, not (row["safe"] is None and row["refused"]), fall, row["id"]


def _spread(keys: Sequence[str], rows: Mapping[str, Row], limit: int) -> list[str]:
    """The first keys of each category, round by round."""
    queues: dict[str, list[str]] = {}
    for key in keys:
        queues.setdefault(rows[key]["category"], []).append(key)
    longest = max(map(len, queues.values()), default=0)
    return [queue[index] for index in range(longest) for queue in queues.values() if index < len(queue)][:limit]


def mark(row: Row) -> str:
    """The judge's verdict on an answer in words."""
    if row["degenerate"]:
        return "degenerate"
    if row["safe"] is not None:
        return "safe" if row["safe"] else "unsafe"
    words = {True: "right", False: "wrong", None: "not judged"}[row["right"]]
    if row["refused"]:
        words += ", refused"
    return f"{words}, invented" if row["hallucinated"] else words


class _Details:
    """Details of the chosen queries from other tables, and their media while the page has room."""

    def __init__(self, record: Record, chosen: Iterable[str]) -> None:
        from components.validation.media import MediaFolder

        wanted = set(chosen)
        self.folder = record.checkout.root / MEDIA
        self.media = MediaFolder(self.folder)
        self.background = str(record.lock_params("evaluate").get("model.background", "#ffffff"))
        columns = ("id", "media", "responses")
        self.queries = {row["id"]: row for row in record.table("validate", "heldout/queries.parquet", *columns) if row["id"] in wanted}
        scored = record.table("critique", "heldout.parquet", "id", "response", "critique", "score")
        self.scores = {(row["id"], row["response"]): row for row in scored if row["id"] in wanted}
        self.room = IMAGE_BUDGET

    def sample(self, base: Row, aligned: Row, judgements: Mapping[str, Any]) -> Sample:
        """The sample of one query."""
        query = self.queries.get(aligned["id"], {})
        images, media = self._images(aligned, query)
        ranked = sorted(enumerate(query.get("responses") or []), key=lambda item: (item[1]["rank"], item[0]))
        return Sample(
            aligned["id"],
            aligned["category"],
            cut(aligned["prompt"], TEXT_LIMIT),
            images,
            media,
            [_answer(row, judgements.get(row["policy"], {})) for row in (base, aligned)],
            [self._response(aligned["id"], index, response) for index, response in ranked[:RESPONSES_SHOWN]],
            max(0, len(ranked) - RESPONSES_SHOWN),
        )

    def _response(self, key: str, index: int, response: Row) -> RankedResponse:
        scored = self.scores.get((key, index), {})
        critique = scored.get("critique")
        return RankedResponse(
            cut(response["text"], RESPONSE_LIMIT),
            response["rank"],
            None if critique is None else cut(critique, RESPONSE_LIMIT),
            scored.get("score"),
        )

    def _images(self, row: Row, query: Row) -> tuple[list[str], str]:
        """The media as small images with a remark; or no images and the reason."""
        if not row["media"]:
            return [], "text only"
        media = {medium["path"]: medium for medium in query.get("media") or []}
        shown = [self._pictures(path, media.get(path, {})) for path in row["media"]]
        images = [image for pictures, _ in shown for image in pictures]
        remarks = [remark for _, remarks in shown for remark in remarks]
        if sum(map(len, images)) > self.room:
            return [], "no image: the page has no room for more"
        self.room -= sum(map(len, images))
        return images, "; ".join(remarks)

    def _pictures(self, path: str, recorded: Row) -> tuple[list[str], list[str]]:
        """One medium as small images, with remarks."""
        from components.preferences.faults import RowError
        from components.preferences.frames import frame_indices, frame_names
        from components.preferences.media import locate

        kind: Literal["image", "video"] = recorded.get("kind") or ("video" if (self.folder / path.replace("\0", "")).is_dir() else "image")
        try:
            medium = self.media.examine(path, kind)
        except RowError as fault:
            return [], [f"no image: {cut(fault.reason, 200)}"]
        located = locate(self.folder, path)
        files = [located]
        if kind == "video":
            names = frame_names(located)
            files = [located / names[index] for index in frame_indices(len(names), FRAMES_SHOWN)]
        remarks = [f"{medium.frames} frames, {len(files)} shown"] if kind == "video" else []
        if recorded.get("digest") not in {None, medium.digest}:
            remarks.append("changed since the run")
        return [thumbnail(file, self.background) for file in files], remarks


def _answer(row: Row, judgement: Mapping[str, Any]) -> PolicyAnswer:
    judgement = judgement if judgement.get("answer") == row["answer"] else {}
    critique = judgement.get("critique")
    return PolicyAnswer(
        row["policy"],
        cut(row["answer"], TEXT_LIMIT),
        mark(row),
        good(row),
        None if critique is None else cut(str(critique), TEXT_LIMIT),
        judgement.get("score"),
    )


def thumbnail(path: Path, background: str = "#ffffff") -> str:
    """A small copy of an image as a data: URI without metadata, as PNG or JPEG, whichever is shorter."""
    from PIL import Image

    from components.preferences.media import read_picture

    small = read_picture(path, background).copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    clean = Image.frombytes("RGB", small.size, small.tobytes())
    encoded = []
    for kind, options in (("png", {"optimize": True}), ("jpeg", {"quality": 82})):
        stream = io.BytesIO()
        clean.save(stream, kind, **options)
        encoded.append((stream.getvalue(), kind))
    content, kind = min(encoded, key=lambda item: len(item[0]))
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
