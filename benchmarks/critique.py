"""Critiques and scores of a query's responses: the pipeline's decoder against transformers' generate, for a LLaVA and a Qwen model.

A judged query is one prompt with a picture and several responses. Three ways give each response a greedy critique and a score where it ends:
- the decoder reads prompt and picture once, continues all responses together, and reads the scores as it writes;
- "sequential" is what the released script does: `generate` for one response at a time, then one forward for its score;
- "batched" is `generate` over all responses in one batch, then one batched forward.
The last two process prompt and picture anew in every call. No side batches over queries. All write the same tokens, or the count says so.

`predicted` is the ratio that the sides' token counts give at rates measured in the same run: a picture, a token read, and a token written in
a batch of one and of all responses, each by plain transformers. `share_of_predicted` compares.

    python -m benchmarks.critique --json

Bounds here: speedup_vs_sequential 3, speedup_vs_batched_generate 1.5, both shares 0.8, mismatched_tokens 0. The ratios are the smaller of the
two families'.
"""

from __future__ import annotations

import string
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks import _models, _qwen
from benchmarks._harness import Ratio, Report, interleave, keep_memory, machine, parser, ratios, seconds_of, show, use_threads
from benchmarks._models import PATCH, TRIAL, Shape
from components.families.adapters import Root, family_of
from components.features.embedding import embed
from components.generation.decoding import continue_prompts
from components.reward.model import ScoreHead

ROUNDS = 5
RATE_STEPS = 8  # tokens written to measure a rate
SCORE_TOLERANCE = 1e-3  # between two sides' scores
# Measured over predicted, at most: generate's own work around the model, which the prediction leaves out, slows the other sides.
CEILING = 1.25
BOUNDS = {"speedup_vs_sequential": "sequential", "speedup_vs_batched_generate": "batched"}


@dataclass(frozen=True)
class Case:
    """A query's lengths in tokens and its model."""

    root_tokens: int
    responses: int
    response_tokens: int
    critique_tokens: int
    shape: Shape


CASE = Case(
    840,
    4,
    60,
    40,
    Shape(
        hidden=768,
        intermediate=2304,
        layers=12,
        heads=12,
        key_value_heads=2,
        vocabulary=16_384,
        vision_hidden=384,
        vision_intermediate=1536,
        vision_layers=4,
        vision_heads=6,
        side=20,
        tied=False,
    ),
)
SMALL_CASE = Case(40, 3, 8, 6, TRIAL)


class Sides:
    """One family's query and the ways to judge it. Each returns the critiques' tokens and the scores [K]."""

    def __init__(self, case: Case, family: str) -> None:
        self.case = case
        side = case.shape.side
        if family == "llava_onevision":
            self.processor = _models.build_processor(side)
            self.model = _models.build_model(case.shape, self.processor)
            mark, image_tokens, edge = "<image>", case.shape.image_tokens, side * PATCH
        else:
            self.processor = _qwen.build_processor()
            self.model = _qwen.build_model(case.shape, self.processor)
            mark, image_tokens, edge = _qwen.IMAGE, side**2 + 2, side * PATCH * _qwen.MERGE
        self.model.eval().requires_grad_(False)
        torch.manual_seed(1)
        self.head = ScoreHead(case.shape.hidden).requires_grad_(False)
        random = np.random.default_rng(0)
        letters = np.array(list(string.ascii_lowercase + " "))
        self.image = Image.fromarray(random.integers(0, 255, (edge, edge, 3), dtype=np.uint8))
        self.prompt = mark + "".join(random.choice(letters, case.root_tokens - image_tokens))
        texts = ["".join(random.choice(letters, case.response_tokens)) for _ in range(case.responses)]
        self.suffixes: list[list[int]] = [self.processor.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        self.root: Root = family_of(self.model.config).encode(self.processor, self.model.config, self.prompt, [self.image], [], ["image"])
        self.end_id: int = self.processor.tokenizer.eos_token_id
        assert len(self.root.input_ids) == case.root_tokens
        assert {len(suffix) for suffix in self.suffixes} == {case.response_tokens}

    @torch.no_grad()
    def decoder(self) -> tuple[list[list[int]], Tensor]:
        """The pipeline's own way."""
        continued = continue_prompts(
            self.model,
            [self.root] * len(self.suffixes),
            self.suffixes,
            max_new_tokens=self.case.critique_tokens,
            batch_size=len(self.suffixes),
            end_id=self.end_id,
            read_ends=True,
        )
        ends = [row.end_H for row in continued if row.end_H is not None]
        return [row.tokens for row in continued], self.head(torch.stack(ends))

    def sequential(self) -> tuple[list[list[int]], Tensor]:
        """One response at a time."""
        judged = [self._generated([suffix]) for suffix in self.suffixes]
        return [tokens for rows, _ in judged for tokens in rows], torch.cat([scores for _, scores in judged])

    def batched(self) -> tuple[list[list[int]], Tensor]:
        """All responses in one batch."""
        return self._generated(self.suffixes)

    @torch.no_grad()
    def _generated(self, suffixes: Sequence[Sequence[int]]) -> tuple[list[list[int]], Tensor]:
        prompts = self._encoded(suffixes)
        output = self.model.generate(
            **prompts, max_new_tokens=self.case.critique_tokens, do_sample=False, eos_token_id=self.end_id, pad_token_id=self.end_id
        )
        written = output[:, prompts["input_ids"].shape[1] :].tolist()
        critiques = [[*suffix, *tokens, self.end_id] for suffix, tokens in zip(suffixes, written, strict=True)]
        hidden_KLH = self.model.model(**self._encoded(critiques), use_cache=False).last_hidden_state
        return written, self.head(hidden_KLH[:, -1])

    def _encoded(self, after: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """The processor's output for the prompt, a row for each list of tokens after it; every row has a copy of the picture."""
        encoded = {
            name: torch.cat([tensor] * len(after))
            for name, tensor in self.processor(text=[self.prompt], images=[[self.image]], return_tensors="pt").items()
        }
        tokens = torch.tensor(after)
        fills = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "mm_token_type_ids": torch.zeros_like(tokens)}
        return {name: torch.cat([tensor, fills[name]], dim=1) if name in fills else tensor for name, tensor in encoded.items()}

    @torch.no_grad()
    def read_picture(self) -> None:
        """Vision tower and projector on the picture."""
        embed(self.model, torch.tensor([self.root.input_ids]), [self.root])

    @torch.no_grad()
    def read_text(self) -> None:
        """The language model on as many tokens as prompt and response have."""
        hidden = torch.randn(1, self.case.root_tokens + self.case.response_tokens, self.case.shape.hidden)
        self.model.model.language_model(inputs_embeds=hidden, use_cache=False)

    @torch.no_grad()
    def writing(self, rows: int) -> Callable[[], None]:
        """Writes RATE_STEPS tokens in each of `rows` rows after prompt and response, with transformers' own cache."""
        from transformers import DynamicCache

        language, text = self.model.model.language_model, self.model.config.text_config
        length = self.case.root_tokens + self.case.response_tokens
        start = DynamicCache(config=text)
        name = "cache" if "cache" in _arguments(language) else "past_key_values"
        language(inputs_embeds=torch.randn(rows, length, text.hidden_size), use_cache=True, **{name: start})

        @torch.no_grad()
        def write() -> None:
            for _ in range(RATE_STEPS):
                token = self.model.get_input_embeddings()(torch.zeros((rows, 1), dtype=torch.long))
                hidden = language(inputs_embeds=token, use_cache=True, **{name: start}).last_hidden_state
                self.model.lm_head(hidden).argmax(-1)
            start.crop(-RATE_STEPS)

        return write


def _arguments(module: torch.nn.Module) -> set[str]:
    from inspect import signature

    return set(signature(module.forward).parameters)


def predicted_seconds(case: Case, rates: Mapping[str, float]) -> dict[str, float]:
    """Each side's seconds from its token counts. `rates` are seconds: picture, read (a token), write_one and write_all (a token in each row)."""
    prompt, count, text = case.root_tokens + case.response_tokens, case.responses, case.critique_tokens
    # The last token written is not read by generate, but with its end by the forward after it, which reads prompt and picture again.
    reading = 2 * rates["picture"] + (2 * prompt + text + 1) * rates["read"]
    return {
        "decoder": rates["picture"] + (case.root_tokens + count * case.response_tokens) * rates["read"] + (text + 1) * rates["write_all"],
        "sequential": count * (reading + (text - 1) * rates["write_one"]),
        "batched": count * reading + (text - 1) * rates["write_all"],
    }


def measure(case: Case, family: str, rounds: int) -> tuple[dict[str, Ratio], Report]:
    """Compare the sides' tokens and scores, then time them, and the rates beside them."""
    sides = Sides(case, family)
    judged = {name: getattr(sides, name)() for name in ("decoder", "sequential", "batched")}
    tokens = {name: torch.tensor(rows) for name, (rows, _) in judged.items()}
    assert {tuple(rows.shape) for rows in tokens.values()} == {(case.responses, case.critique_tokens)}, "a critique ended early"
    difference = max(float((judged["decoder"][1] - scores).abs().max()) for _, scores in judged.values())
    mismatched = int((tokens["decoder"] != tokens["sequential"]).sum())
    if mismatched == 0 and difference > SCORE_TOLERANCE:
        raise SystemExit(f"{family}: scores on equal critiques differ by {difference}")

    rated = {
        "picture": sides.read_picture,
        "read": sides.read_text,
        "write_one": sides.writing(1),
        "write_all": sides.writing(case.responses),
    }
    timings = interleave({**{name: getattr(sides, name) for name in judged}, **rated}, rounds)
    parts = {"picture": 1, "read": case.root_tokens + case.response_tokens, "write_one": RATE_STEPS, "write_all": RATE_STEPS}
    rates = {name: timings[name].seconds / parts[name] for name in rated}
    user_rates = {name: timings[name].user_seconds / parts[name] for name in rated}
    predicted, user_predicted = predicted_seconds(case, rates), predicted_seconds(case, user_rates)
    speedups: dict[str, Ratio] = {}
    shares, expected, user = {}, {}, {}
    for key, side in BOUNDS.items():
        expected[key] = predicted[side] / predicted["decoder"]
        speedups[key] = Ratio(timings[side], timings["decoder"], CEILING * expected[key])
        shares[key] = speedups[key].value / expected[key]
        user[key] = {
            "speedup": timings[side].user_seconds / timings["decoder"].user_seconds,
            "predicted": user_predicted[side] / user_predicted["decoder"],
        }
    return speedups, {
        "predicted": expected,
        "share_of_predicted": shares,
        "user": user,
        "mismatched_tokens": mismatched,
        "mismatched_tokens_batched": int((tokens["batched"] != tokens["sequential"]).sum()),
        "different_tokens": len(set(tokens["sequential"].flatten().tolist())),
        "max_score_difference": difference,
        "rates_seconds": rates,
        "predicted_seconds": predicted,
        **seconds_of(timings),
        "parameters": sum(p.numel() for p in sides.model.parameters()),
    }


def run(*, small: bool, threads: int, rounds: int, families: Sequence[str] = ("llava_onevision", "qwen2_5_vl")) -> Report:
    """Both ratios, the smaller of the families', and the numbers behind them."""
    case = SMALL_CASE if small else CASE
    measured = {family: measure(case, family, rounds) for family in families}
    reports = {family: {**ratios(speedups, small=small), **report} for family, (speedups, report) in measured.items()}
    return {
        "benchmark": "critique",
        **{key: _smallest([report[key] for report in reports.values()]) for key in BOUNDS},
        "share_of_predicted": {
            key: _smallest([None if key in report["refused"] else report["share_of_predicted"][key] for report in reports.values()])
            for key in BOUNDS
        },
        "mismatched_tokens": sum(report["mismatched_tokens"] for report in reports.values()),
        "root_tokens": case.root_tokens,
        "responses": case.responses,
        "response_tokens": case.response_tokens,
        "critique_tokens": case.critique_tokens,
        "families": reports,
        "attention": "sdpa",
        "dtype": "float32",
        "rounds": rounds,
        "machine": machine(threads),
    }


def _smallest(values: Sequence[float | None]) -> float | None:
    """None if one of them is missing."""
    present = [value for value in values if value is not None]
    return min(present) if len(present) == len(values) else None


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    chosen = parser(__doc__ or "").parse_args(arguments)
    use_threads(chosen.threads)
    show(lambda: run(small=chosen.small, threads=chosen.threads, rounds=chosen.rounds or ROUNDS), chosen.json)


if __name__ == "__main__":
    keep_memory("benchmarks.critique", sys.argv[1:])
    main(sys.argv[1:])
