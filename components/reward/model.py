"""The critique-based reward model: one vision-language model with two heads (paper section 3).

- The language-model head writes the critique; the score head reads the last token of (prompt, media, response, critique).
- A model that was trained without critiques writes none, and its score head reads the end of the response. Its head's file says so.
- The score head is two layers with SiLU: on MM-RLHF-RewardBench better than the released tanh head (BaseReward, arXiv 2509.16127, table 2).
- A query's responses are branches of one tree, so the judge reads prompt and media once.

Shapes: K branches (responses), H hidden size.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from components.config.reward import CritiqueSource
from components.config.settings import Settings
from components.engine.ranks import Ranks, inference_dtype
from components.errors import UserError
from components.families.digests import HEAD_FILE
from components.families.loading import load_model, save_trained
from components.families.opening import open_tensors
from components.families.regular import sentences
from components.files import write_json
from components.reward.recorded_source import SOURCE_KEY, critique_source_of
from components.trees.logprobs import branch_sums, branch_tokens, token_log_probs, tree_hidden
from components.trees.trees import TreeBatch

_BYTES = {"F32": 4, "BF16": 2, "F16": 2}  # of one weight, by safetensors' names


class WideLinear(nn.Linear):
    """A linear layer that computes in fp32 whatever its weights and inputs are held in. Its own module, so that ZeRO-3 gathers it."""

    def forward(self, input_: Tensor) -> Tensor:
        """The product in fp32, or fp64 for an fp64 layer, under autocast too."""
        with torch.autocast(input_.device.type, enabled=False):
            return nn.functional.linear(_wide(input_), _wide(self.weight), _wide(self.bias))


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


class ScoreHead(nn.Module):
    """Hidden state [K, H] to score [K]. It computes in fp32 in a bf16 model: in bf16 most margins would round to a few values."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.dense = WideLinear(hidden, hidden)
        self.out = WideLinear(hidden, 1)

    def forward(self, hidden_KH: Tensor) -> Tensor:
        """Scores [K] in fp32."""
        score_K1: Tensor = self.out(nn.functional.silu(self.dense(hidden_KH)))
        return score_K1[:, 0]


class Judgement(NamedTuple):
    """What the reward model makes of a batch of branches: scores, critique log-prob sums, critique tokens; all [K].

    A tuple, so that DeepSpeed sees the tensors in it.
    """

    score_K: Tensor
    critique_log_prob_K: Tensor
    critique_tokens_K: Tensor


class RewardModel(nn.Module):
    """A vision-language model with a score head. `critique_source` is what it was trained on, None where its folder does not record that."""

    def __init__(self, model: Any, head: ScoreHead, critique_source: CritiqueSource | None = None) -> None:
        super().__init__()
        self.model = model
        self.head = head
        self.critique_source = critique_source

    @property
    def writes_critiques(self) -> bool:
        """Whether it scores a response on its critique; else on the response alone."""
        return self.critique_source != "none"

    def forward(self, batch: TreeBatch) -> Judgement:
        """Scores at each branch's last token, and log-probs of the critique tokens, which are the branches' targets."""
        hidden_NH = tree_hidden(self.model, batch)
        token_T = token_log_probs(self.model.lm_head, hidden_NH[batch.predictor_T], batch.target_T)
        return Judgement(self.head(hidden_NH[batch.last_K]), branch_sums(token_T, batch), branch_tokens(batch))

    def save(self, folder: Path, base: Path) -> None:
        """Write the model, its processor files and the score head; equal weights give equal bytes."""
        save_trained(self.model, folder, base)
        tensors = {name: tensor.detach().float().cpu().contiguous() for name, tensor in self.head.state_dict().items()}
        save_file(tensors, folder / HEAD_FILE, None if self.critique_source is None else {SOURCE_KEY: self.critique_source})
        write_index(folder)


def write_index(folder: Path) -> None:
    """Name the file of every weight of the vision-language model, where that is a single file.

    vLLM and SGLang read all safetensors of a folder that an index does not exclude, and refuse the score head's.
    """
    weights, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if not weights.is_file() or index.is_file():
        return
    with safe_open(weights, framework="pt") as opened:
        names = sorted(opened.keys())
        sizes = (opened.get_slice(name) for name in names)
        total = sum(math.prod(part.get_shape()) * _BYTES[part.get_dtype()] for part in sizes)
    write_json(index, {"metadata": {"total_size": total}, "weight_map": dict.fromkeys(names, weights.name)})


def new_reward_model(model: Any, seed: int, critique_source: CritiqueSource | None = None) -> RewardModel:
    """A vision-language model with a fresh score head drawn from `seed`."""
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    head = ScoreHead(model.config.text_config.hidden_size)
    torch.random.set_rng_state(state)
    return RewardModel(model, head, critique_source)


def load_reward_model(folder: Path, attention: str = "sdpa") -> RewardModel:
    """Open what `RewardModel.save` wrote. Raises UserError when the score head is missing."""
    if not (folder / HEAD_FILE).is_file():
        raise UserError(f"{folder} has no {HEAD_FILE}: it is not a reward model; run the reward stage")
    model = load_model(folder, attention=attention)
    head = ScoreHead(model.config.text_config.hidden_size)
    tensors = open_tensors(folder / HEAD_FILE)
    with sentences(folder, HEAD_FILE):
        head.load_state_dict(tensors)
    return RewardModel(model, head, critique_source_of(folder)).eval()


def open_reward_model(folder: Path, ranks: Ranks, settings: Settings) -> RewardModel:
    """The reward model in `folder`, on this rank's device, to score with. Its score head is whole on every rank."""
    dtype = inference_dtype(settings)
    with ranks.opening(dtype):
        reward = load_reward_model(folder, settings.model.attention)
    if not ranks.lockstep:
        reward.model.to(dtype)
    ranks.move(reward.model)
    reward.head.to(ranks.device)
    return reward
