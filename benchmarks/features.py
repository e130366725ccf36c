"""An epoch of alignment with the frozen vision tower's output from disk, against the same epoch with the tower run live.

A query's image is a base view and four tiles. Model and lengths are SigLIP-so400m and Qwen2-0.5B scaled down so that tower and step keep
their proportion of operations: views of 196 patches for 729, widths a quarter, layers a fifth and a sixth, a tree of some 1,100 tokens for
4,200. `arithmetic_ceiling` is the speedup that the operations alone predict, here and for the real shapes.

Both sides run the same trees, reference log-probs from a store, loss, backward and AdamW. The learning rate is 0, so that every epoch does the
same work. Neither timing includes preprocessing. `fill_seconds` is the whole pass that fills the cache, with reading and preprocessing.

    python -m benchmarks.features --json

Bound here: epoch_speedup_small 1.12.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks._harness import ROOT, Ratio, Report, interleave, keep_memory, machine, parser, ratios, seconds_of, show, use_threads
from benchmarks._models import PATCH, TRIAL, Shape, build_model, build_processor, moved_copy
from components.alignment.losses import LossSettings, PairBatch, pair_loss
from components.checkout import Checkout
from components.config.settings import Settings, load_settings
from components.families.loading import load_model, save_model
from components.families.processing import Preprocessor
from components.features.cache import FeatureReport, attach_features
from components.preferences.record import Medium, Query, Response
from components.trees.logprobs import TreeModel, branch_tokens
from components.trees.scoring import policy_tree
from components.trees.trees import Tree, build_batch

BETA = 0.1
LOSS_TOLERANCE = 1e-5  # relative
ROUNDS = 3
RESPONSES = 4
VIEWS = 5  # the base view and four tiles
TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}<{{ part['type'] }}>{% endif %}"
    "{% endfor %}<|im_end|>{% endfor %}"
)


@dataclass(frozen=True)
class Case:
    """A model, and the lengths in tokens of the texts around an image."""

    shape: Shape
    prompt_tokens: int
    response_tokens: int
    queries: int

    @property
    def tree_tokens(self) -> int:
        """Every view's patches, a newline for each row of the four tiles, the prompt, and the responses."""
        return VIEWS * self.shape.side**2 + 2 * self.shape.side + self.prompt_tokens + RESPONSES * self.response_tokens


CASE = Case(
    Shape(
        hidden=224,
        intermediate=1216,
        layers=4,
        heads=7,
        key_value_heads=1,
        vocabulary=8192,
        vision_hidden=288,
        vision_intermediate=1076,
        vision_layers=5,
        vision_heads=4,
        side=14,
    ),
    prompt_tokens=30,
    response_tokens=27,
    queries=6,
)
SMALL_CASE = Case(
    TRIAL,
    prompt_tokens=8,
    response_tokens=6,
    queries=2,
)
# SigLIP-so400m at 384 pixels and Qwen2-0.5B, as LLaVA-OneVision-0.5B has them, with a prompt and responses of usual length.
REAL_CASE = Case(
    Shape(
        hidden=896,
        intermediate=4864,
        layers=24,
        heads=14,
        key_value_heads=2,
        vocabulary=151_936,
        vision_hidden=1152,
        vision_intermediate=4304,
        vision_layers=26,  # the last of 27 does not run: features are the input to it
        vision_heads=16,
        side=27,
    ),
    prompt_tokens=110,
    response_tokens=100,
    queries=1,
)


class Epochs:
    """The two sides on one policy."""

    def __init__(self, case: Case, threads: int, root: Path) -> None:
        self.case = case
        self.settings = _settings(threads)
        base = root / self.settings.model.base
        self._save(base)
        self.queries = _queries(case, root / "data/preferences")
        self.fill: FeatureReport
        self.live = self._trees(base, root, cached=False)
        self.cached = self._trees(base, root, cached=True)
        assert all(tree.root.media[0].features is None for tree in self.live)
        assert all(tree.root.media[0].features is not None for tree in self.cached)
        assert {tree.tokens for tree in self.live} == {case.tree_tokens}
        model = load_model(base)
        self.reference = [self._log_probs(model, tree) for tree in self.live]
        model.model.vision_tower.requires_grad_(False)
        self.policy = moved_copy(model)
        self.optimizer = torch.optim.AdamW([p for p in self.policy.parameters() if p.requires_grad], lr=0.0, weight_decay=0.0, fused=True)

    def epoch(self, trees: list[Tree]) -> list[float]:
        """One pass over the queries, a step each; returns their losses."""
        losses = []
        for tree, reference_K in zip(trees, self.reference, strict=True):
            batch = build_batch([tree], tree.tokens, "cpu", 0)
            loss = pair_loss(TreeModel(self.policy)(batch), reference_K, branch_tokens(batch), _pairs(), LossSettings(sft_weight=0.0)).loss
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            losses.append(float(loss.detach()))
        return losses

    def _save(self, base: Path) -> None:
        processor = build_processor(self.case.shape.side)
        edge = 2 * self.case.shape.side * PATCH
        processor.image_processor.image_grid_pinpoints = [[edge, edge]]
        processor.chat_template = TEMPLATE
        model = build_model(self.case.shape, processor)
        model.config.image_grid_pinpoints = [[edge, edge]]
        processor.save_pretrained(base)
        save_model(model, base, base / "none")

    def _trees(self, base: Path, root: Path, *, cached: bool) -> list[Tree]:
        preprocessor = Preprocessor(base, root / "data/preferences", self.settings.model, self.settings.features)
        if cached:
            self.fill = attach_features(preprocessor, base, self.queries, self.settings, Checkout(root))
            assert self.fill.made == len(self.queries)
        return [policy_tree(preprocessor, query) for query in self.queries]

    @staticmethod
    @torch.no_grad()
    def _log_probs(model: Any, tree: Tree) -> torch.Tensor:
        return TreeModel(model)(build_batch([tree], tree.tokens, "cpu", 0))  # type: ignore[no-any-return]


def _settings(threads: int) -> Settings:
    """The demo's settings, with the threads of this run."""
    settings = load_settings(ROOT / "params.yaml")
    training = settings.training.model_copy(update={"threads": threads, "precision": "fp32"})
    features = settings.features.model_copy(update={"cache": True, "dtype": "fp32"})
    model = settings.model.model_copy(update={"base": Path("data/base"), "attention": "sdpa"})
    return settings.model_copy(update={"training": training, "features": features, "model": model})


def _queries(case: Case, folder: Path) -> list[Query]:
    """Images of noise that fill four tiles, with prompts and responses of the case's lengths; a character is a token."""
    folder.mkdir(parents=True)
    edge = 2 * case.shape.side * PATCH
    random = np.random.default_rng(0)
    queries = []
    for number in range(case.queries):
        Image.fromarray(random.integers(0, 255, (edge, edge, 3), dtype=np.uint8)).save(folder / f"{number}.png")
        texts = ["".join(chr(97 + value) for value in random.integers(0, 26, case.response_tokens - 1)) for _ in range(RESPONSES)]
        prompt = "".join(chr(97 + value) for value in random.integers(0, 26, case.prompt_tokens - 1))  # and the end of its turn
        responses = tuple(Response(text, rank) for rank, text in enumerate(texts, 1))
        queries.append(Query.single(f"q{number}", "short", prompt, responses, Medium(f"{number}.png", "image", f"image {number}")))
    return queries


def _pairs() -> PairBatch:
    pairs = [(winner, loser) for winner in range(RESPONSES) for loser in range(winner + 1, RESPONSES)]
    winners, losers = (torch.tensor(column) for column in zip(*pairs, strict=True))
    return PairBatch(winners, losers, torch.full((len(pairs),), BETA), torch.full((len(pairs),), 1 / len(pairs)))


def vision_operations(case: Case) -> float:
    """Multiplications and additions of the vision tower over an image's views."""
    shape, patches = case.shape, case.shape.side**2
    weights = 4 * shape.vision_hidden**2 + 2 * shape.vision_hidden * shape.vision_intermediate
    layer = 2 * patches * weights + 4 * patches**2 * shape.vision_hidden
    return VIEWS * (shape.vision_layers * layer + 2 * patches * 3 * PATCH**2 * shape.vision_hidden)


def other_operations(case: Case) -> float:
    """Operations of projector, language model and head, forward and backward; the head repeats its forward in backward."""
    shape, tokens = case.shape, case.tree_tokens
    key_value = shape.hidden // shape.heads * shape.key_value_heads
    weights = 2 * shape.hidden**2 + 2 * shape.hidden * key_value + 3 * shape.hidden * shape.intermediate
    language = 3 * shape.layers * (2 * tokens * weights + 4 * tokens**2 * shape.hidden)
    head = 4 * 2 * RESPONSES * case.response_tokens * shape.hidden * shape.vocabulary
    projector = 2 * VIEWS * shape.side**2 * (2 * shape.vision_hidden * shape.hidden + 3 * shape.hidden**2)
    return language + head + projector


def ceiling(case: Case) -> float:
    """Operations of a step with the vision tower, divided by those without it."""
    return 1 + vision_operations(case) / other_operations(case)


def run(*, small: bool, threads: int, rounds: int) -> Report:
    """Check that both sides compute the same, and time them."""
    case = SMALL_CASE if small else CASE
    with tempfile.TemporaryDirectory() as folder:
        epochs = Epochs(case, threads, Path(folder))
        losses = {"live": epochs.epoch(epochs.live), "cached": epochs.epoch(epochs.cached)}
        for one, other in zip(losses["live"], losses["cached"], strict=True):
            assert abs(one - other) <= LOSS_TOLERANCE * abs(one), f"the sides compute different losses: {one} and {other}"
        sides = {"live": lambda: epochs.epoch(epochs.live), "cached": lambda: epochs.epoch(epochs.cached)}
        timings = interleave(sides, rounds)
    live, cached = timings["live"], timings["cached"]
    saved = live.seconds - cached.seconds
    return {
        "benchmark": "features",
        **ratios({"epoch_speedup_small": Ratio(live, cached, ceiling(case))}, small=small),
        "epoch_speedup_small_user": live.user_seconds / cached.user_seconds,
        "arithmetic_ceiling": ceiling(case),
        "arithmetic_ceiling_real": ceiling(REAL_CASE),
        "fill_seconds": epochs.fill.seconds,
        "break_even_epochs": epochs.fill.seconds / saved if saved > 0 else None,
        "bytes_a_query": epochs.fill.bytes_a_medium,
        "bytes_a_query_real_fp32": VIEWS * REAL_CASE.shape.side**2 * REAL_CASE.shape.vision_hidden * 4,
        "queries": case.queries,
        "tree_tokens": case.tree_tokens,
        **seconds_of(timings),
        "losses": {name: sum(values) / len(values) for name, values in losses.items()},
        "attention": "sdpa, additive mask",
        "dtype": "float32",
        "optimiser": "AdamW, fused, learning rate 0",
        "rounds": rounds,
        "machine": machine(threads),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    options = parser(__doc__ or "").parse_args(arguments)
    use_threads(options.threads)
    with redirect_stdout(sys.stderr):  # messages of the fill are no part of the report
        report = run(small=options.small, threads=options.threads, rounds=options.rounds or ROUNDS)
    show(report, options.json)


if __name__ == "__main__":
    keep_memory("benchmarks.features", sys.argv[1:])
    main(sys.argv[1:])
