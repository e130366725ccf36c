"""The reward model's two heads: scores by hand, a seeded start, critique log-probs token by token, and what a folder holds."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from components.families.digests import HEAD_FILE
from components.families.loading import load_model
from components.families.processing import Preprocessor
from components.reward.model import RewardModel, ScoreHead, load_reward_model, new_reward_model
from components.reward.scoring import judge_branch
from components.trees.trees import Tree, build_batch
from tests.tiny import pixels, preprocessor, queries


def test_head_is_two_layers_with_silu_by_hand() -> None:
    head = ScoreHead(2)
    with torch.no_grad():
        head.dense.weight.copy_(torch.tensor([[1.0, 2.0], [-1.0, 0.5]]))
        head.dense.bias.copy_(torch.tensor([0.5, -0.25]))
        head.out.weight.copy_(torch.tensor([[3.0, -2.0]]))
        head.out.bias.copy_(torch.tensor([0.125]))
        scores = head(torch.tensor([[1.0, 1.0], [0.0, -2.0]])).tolist()

    def silu(value: float) -> float:
        return value / (1 + float(torch.exp(torch.tensor(-value))))

    first = 3 * silu(1 + 2 + 0.5) - 2 * silu(-1 + 0.5 - 0.25) + 0.125
    second = 3 * silu(-4 + 0.5) - 2 * silu(-1 - 0.25) + 0.125
    assert scores == pytest.approx([first, second], rel=1e-6)


@pytest.mark.parametrize(("branches", "hidden"), [(1, 4), (5, 8)])
def test_head_gives_one_fp32_score_a_branch(branches: int, hidden: int) -> None:
    head = ScoreHead(hidden).to(torch.bfloat16)
    assert (head.dense.weight.shape, head.out.weight.shape) == ((hidden, hidden), (1, hidden))
    score_K = head(torch.ones(branches, hidden, dtype=torch.bfloat16))
    assert score_K.shape == (branches,)
    assert score_K.dtype == torch.float32


def test_head_of_bf16_weights_computes_in_fp32() -> None:
    torch.manual_seed(0)
    head, hidden_KH = ScoreHead(64).to(torch.bfloat16), torch.randn(5, 64).bfloat16()
    wide = ScoreHead(64)
    wide.load_state_dict(head.state_dict())
    expected = wide(hidden_KH.float())
    assert torch.equal(head(hidden_KH), expected)
    assert not torch.equal(expected, expected.bfloat16().float())


def test_head_computes_in_fp32_under_autocast() -> None:
    torch.manual_seed(0)
    head, hidden_KH = ScoreHead(64), torch.randn(5, 64)
    with torch.autocast("cpu", torch.bfloat16):
        inside = head(hidden_KH)
    assert torch.equal(inside, head(hidden_KH))


def test_new_head_is_drawn_from_its_seed_alone(tiny_base: Path) -> None:
    model = load_model(tiny_base)
    torch.manual_seed(11)
    first = new_reward_model(model, seed=4).head.state_dict()
    torch.manual_seed(12)
    repeated, other = new_reward_model(model, seed=4).head.state_dict(), new_reward_model(model, seed=5).head.state_dict()
    torch.manual_seed(4)
    expected = ScoreHead(32).state_dict()
    assert all(torch.equal(first[name], expected[name]) and torch.equal(repeated[name], expected[name]) for name in expected)
    assert not torch.equal(other["dense.weight"], expected["dense.weight"])


def test_new_head_leaves_the_random_state_as_it_was(tiny_base: Path) -> None:
    model = load_model(tiny_base)
    torch.manual_seed(11)
    expected = torch.rand(3).tolist()
    torch.manual_seed(11)
    new_reward_model(model, seed=4)
    assert torch.rand(3).tolist() == expected


def test_judgement_is_that_of_each_branch_read_by_itself(random_reward: RewardModel, prepared: Preprocessor) -> None:
    query = queries()[0]
    critiques = ["Right.", "", "Far too long a critique.", "No."]
    learn = [True, True, True, False]
    branches = [judge_branch(prepared, r.text, c, learn=l) for r, c, l in zip(query.responses, critiques, learn, strict=True)]  # noqa: E741
    root = prepared.judge_root(query, "Judge.")
    with torch.no_grad():
        judged = random_reward(build_batch([Tree(root, tuple(branches))], 400, "cpu", prepared.end_id))
        for number, (response, critique) in enumerate(zip(query.responses, critiques, strict=True)):
            before, after = prepared.judge_ids(response.text), prepared.critique_ids(critique)
            tokens = [*root.input_ids, *before, *after]
            hidden_LH = random_reward.model.model(input_ids=torch.tensor([tokens]), **pixels(root)).last_hidden_state[0]
            assert judged.score_K[number].item() == pytest.approx(random_reward.head(hidden_LH[-1:]).item(), abs=1e-5)
            log_p_LV = random_reward.model.lm_head(hidden_LH).log_softmax(1)
            start = len(tokens) - len(after)
            expected = sum(log_p_LV[start + offset - 1, token].item() for offset, token in enumerate(after)) if learn[number] else 0.0
            assert judged.critique_log_prob_K[number].item() == pytest.approx(expected, abs=1e-4)
            assert judged.critique_tokens_K[number].item() == (len(after) if learn[number] else 0)


def test_saved_head_is_fp32_and_comes_back_bit_for_bit(tmp_path: Path, tiny_base: Path) -> None:
    reward = new_reward_model(load_model(tiny_base), seed=3).train()
    reward.head.to(torch.bfloat16)
    reward.save(tmp_path, tiny_base)
    stored = load_file(tmp_path / HEAD_FILE)
    assert {name: tensor.dtype for name, tensor in stored.items()} == dict.fromkeys(reward.head.state_dict(), torch.float32)
    opened = load_reward_model(tmp_path)
    assert all(torch.equal(tensor, reward.head.state_dict()[name].float()) for name, tensor in opened.head.state_dict().items())
    assert all(not module.training for module in opened.modules())


def test_saved_model_holds_weights_that_training_changed(tmp_path: Path, tiny_base: Path) -> None:
    model = load_model(tiny_base)
    with torch.no_grad():
        model.model.language_model.norm.weight.fill_(0.5)
    new_reward_model(model, seed=3).save(tmp_path, tiny_base)
    assert set(load_reward_model(tmp_path).model.model.language_model.norm.weight.tolist()) == {0.5}
    assert (tmp_path / "tokenizer.json").read_bytes() == (tiny_base / "tokenizer.json").read_bytes()


def test_equal_weights_give_equal_bytes(tmp_path: Path, random_reward: RewardModel, tiny_base: Path) -> None:
    random_reward.save(tmp_path / "one", tiny_base)
    copy.deepcopy(random_reward).save(tmp_path / "two", tiny_base)
    for name in (HEAD_FILE, "model.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_reward_model_opens_with_the_attention_that_is_set(tmp_path: Path, random_reward: RewardModel, tiny_base: Path) -> None:
    random_reward.save(tmp_path, tiny_base)
    opened = load_reward_model(tmp_path, "flex_attention")
    assert opened.model.config.text_config._attn_implementation == "flex_attention"
    assert load_reward_model(tmp_path).model.config.text_config._attn_implementation == "sdpa"


def test_index_names_the_weights_and_not_the_head(tmp_path: Path, tiny_base: Path) -> None:
    new_reward_model(load_model(tiny_base), seed=0).save(tmp_path, tiny_base)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    weights = load_file(tmp_path / "model.safetensors")
    assert index["weight_map"] == dict.fromkeys(weights, "model.safetensors")
    assert index["metadata"]["total_size"] == sum(weight.numel() * weight.element_size() for weight in weights.values())
    # The rule by which vLLM and SGLang choose files: all safetensors, without those that an index leaves out.
    assert {path.name for path in tmp_path.glob("*.safetensors")} - {HEAD_FILE} == set(index["weight_map"].values())


def test_folder_opens_in_plain_transformers_as_the_same_model(tmp_path: Path, tiny_base: Path) -> None:
    reward = new_reward_model(load_model(tiny_base, dtype=torch.bfloat16), seed=0)
    reward.save(tmp_path, tiny_base)
    opened, report = AutoModelForImageTextToText.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    expected = reward.model.state_dict()
    assert all(torch.equal(weight, expected[name]) for name, weight in opened.state_dict().items())
    assert opened.dtype == torch.bfloat16
    assert AutoProcessor.from_pretrained(tmp_path).chat_template == AutoProcessor.from_pretrained(tiny_base).chat_template
    assert opened.generation_config.eos_token_id == preprocessor(tmp_path, tmp_path).end_id
