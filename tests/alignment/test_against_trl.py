"""Our trees against TRL's DPOTrainer on the same pairs of image queries: loss, rewards and gradients, at a constant beta."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from components.alignment.losses import LossSettings, LossType, PairBatch, pair_loss
from components.families.loading import load_model
from components.families.processing import Preprocessor
from components.preferences.record import Query
from components.trees.logprobs import TreeModel, branch_tokens
from components.trees.scoring import policy_tree
from components.trees.trees import build_batch
from tests.tiny import preprocessor, queries

BETA = 0.3


def perturbed(model: Any) -> Any:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.02)
    return model


def gradients(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def by_trl(
    policy: Any, reference: Any, prepared: Preprocessor, chosen: list[Query], folder: Path, loss_type: str
) -> tuple[torch.Tensor, Any]:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer
    from trl.trainer.dpo_trainer import DataCollatorForVisionPreference

    rows = [
        {
            "images": [Image.open(prepared.media_root / query.media[0].path).convert("RGB")],
            "prompt": prepared.template.prompt(query),
            "chosen": query.responses[winner].text + "<|im_end|>",
            "rejected": query.responses[loser].text + "<|im_end|>",
        }
        for query in chosen
        for winner, loser in query.pairs()
    ]
    args = DPOConfig(
        output_dir=str(folder),
        beta=BETA,
        loss_type=[loss_type],
        bf16=False,
        fp16=False,
        use_cpu=True,
        report_to=[],
        max_length=None,
        gradient_checkpointing=False,
    )
    data = Dataset.from_list([{**row, "images": row["images"]} for row in rows])
    trainer = DPOTrainer(model=policy, ref_model=reference, args=args, train_dataset=data, processing_class=prepared.processor)
    batch = DataCollatorForVisionPreference(prepared.processor)(copy.deepcopy(rows))
    return trainer.compute_loss(policy, {**batch}), trainer


# TRL's IPO is over means of a response's tokens, its rewards are over sums whatever the loss.
@pytest.mark.parametrize(("loss_type", "mean_log_probs"), [("sigmoid", False), ("ipo", True)])
def test_loss_rewards_and_gradients_are_those_of_trl(
    loss_type: LossType, mean_log_probs: bool, tmp_path: Path, tiny_base: Path, tiny_media: Path
) -> None:
    prepared = preprocessor(tiny_base, tiny_media)
    chosen = [query for query in queries() if query.kinds == ("image",)]
    policy, reference = perturbed(load_model(tiny_base)), load_model(tiny_base)

    batch = build_batch([policy_tree(prepared, query) for query in chosen], 400, "cpu", prepared.end_id)
    with torch.no_grad():
        reference_K = TreeModel(reference)(batch)
    offsets = [0, len(chosen[0].responses)]
    pairs = [(offset + w, offset + l) for offset, query in zip(offsets, chosen, strict=True) for w, l in query.pairs()]  # noqa: E741
    winners, losers = (torch.tensor(column) for column in zip(*pairs, strict=True))
    even = torch.full((len(pairs),), 1 / len(pairs))
    inputs = (reference_K, branch_tokens(batch), PairBatch(winners, losers, torch.full((len(pairs),), BETA), even))
    log_prob_K = TreeModel(policy)(batch)
    ours = pair_loss(log_prob_K, *inputs, LossSettings(sft_weight=0.0, loss_type=loss_type, mean_log_probs=mean_log_probs))
    rewards = pair_loss(log_prob_K.detach(), *inputs, LossSettings(sft_weight=0.0)).metrics
    our_gradients = gradients(policy, ours.loss)

    loss, trainer = by_trl(policy, reference, prepared, chosen, tmp_path, loss_type)
    their_gradients = gradients(policy, loss)
    logged = trainer._metrics["eval"]  # the policy is in evaluation mode, so that dropout is off on both sides
    assert ours.loss.item() == pytest.approx(loss.item(), rel=1e-5)
    for name, theirs in {"chosen": "chosen", "rejected": "rejected", "margin": "margins", "accuracy": "accuracies"}.items():
        assert rewards[f"rewards/{name}"].item() == pytest.approx(logged[f"rewards/{theirs}"][-1], abs=1e-4)
    scale = max(float(gradient.abs().max()) for gradient in their_gradients.values())
    assert our_gradients.keys() == their_gradients.keys()
    for name, gradient in their_gradients.items():
        assert float((our_gradients[name] - gradient).abs().max()) <= 5e-5 * scale, name
