"""What a launch hands to its ranks and makes of what they leave, with ranks that are played by the test."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from components import stages
from components.checkout import Checkout
from components.config.optimization import optimization_of
from components.config.settings import Settings, parse_settings
from components.engine import checkpoints, inference, launcher, models, worker
from components.engine import launch as launch_module
from components.engine.checkpoints import COMMITTED, FINISHED, commit, training_key
from components.engine.curves import CURVES, PLAN, last_metrics
from components.engine.inference import Launch, compute_shares, run_tasks, share_out
from components.engine.inference_task import Work
from components.engine.launch import launch
from components.engine.models import OneModel, open_policy
from components.engine.operations import operations_of
from components.engine.ranks import RankContext, Ranks
from components.errors import StageFault, UserError
from components.files import read_json, write_json
from components.reward.model import new_reward_model, open_reward_model
from components.stages import StageName
from components.storage.content_cache import ContentCache
from tests.engine.conftest import prepare, toy_settings
from tests.engine.test_curves import Recording
from tests.engine.test_inference import squares
from tests.tiny import save_checkout

Rank = Callable[[dict[str, str], Callable[[], None]], int]
END = {"steps": 2, "resumed_from": 0, "seconds": 1.5, "startup_seconds": 0.5, "weights": "abc", "throughput": {"padding_share": 0.25}}


def play(monkeypatch: pytest.MonkeyPatch, module: Any, ranks: Rank) -> None:
    """Stand in for the ranks of a launch: they are given their options by name, and what follows their progress."""

    def run_ranks(arguments: Sequence[str], *, poll: Callable[[], None], **_: Any) -> int:
        return ranks(dict(zip(arguments[::2], arguments[1::2], strict=True)), poll)

    monkeypatch.setattr(module, "run_ranks", run_ranks)
    monkeypatch.setattr(module.ops, "ensure_built", lambda _: None)


def finish(options: dict[str, str], poll: Callable[[], None]) -> int:
    scratch = Path(options["--scratch"])
    (scratch / CURVES).write_text('{"step": 1, "loss": 0.5, "seconds": 0.1}\n{"step": 2, "loss": 0.25, "seconds": 0.1}\n')
    write_json(scratch / PLAN, {"steps": 2, "resumed_from": 0})
    poll()
    write_json(scratch / FINISHED, END)
    return 0


def test_launch_hands_back_what_the_ranks_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, str] = {}
    play(monkeypatch, launch_module, lambda options, poll: (seen.update(options), finish(options, poll))[1])
    settings = toy_settings()
    outcome = launch("a:build", settings, "align", Checkout(prepare(tmp_path)), "key", tmp_path / "out")
    assert (seen["--factory"], seen["--stage"], seen["--out"]) == ("a:build", "align", str(tmp_path / "out"))
    scratch = Path(seen["--scratch"])
    assert parse_settings(read_json(scratch / "settings.json"), "test") == settings
    assert outcome.curves == scratch / CURVES
    assert (outcome.steps, outcome.seconds, outcome.startup_seconds, outcome.weights) == (2, 1.5, 0.5, "abc")
    assert outcome.throughput == {"padding_share": 0.25}
    assert last_metrics(outcome.curves, "loss") == {"loss": 0.375}


def test_launch_records_every_point_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    play(monkeypatch, launch_module, finish)
    recorder = Recording()
    launch("a:build", toy_settings(), "align", Checkout(prepare(tmp_path)), "key", tmp_path / "out", recorder)
    assert sorted(recorder.all()) == [("loss", 0.25, 2), ("loss", 0.5, 1), ("seconds", 0.1, 1), ("seconds", 0.1, 2)]


def test_launch_forgets_the_fault_of_an_earlier_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(options: dict[str, str], _: Callable[[], None]) -> int:
        launcher_fault = ValueError("a shape is wrong")
        launcher.leave_fault(Path(options["--scratch"]), 1, launcher_fault)
        return 1

    play(monkeypatch, launch_module, fail)
    with pytest.raises(StageFault, match="align: ValueError: a shape is wrong"):
        launch("a:build", toy_settings(), "align", Checkout(prepare(tmp_path)), "key", tmp_path / "out")
    play(monkeypatch, launch_module, finish)
    launch("a:build", toy_settings(), "align", Checkout(tmp_path), "key", tmp_path / "out")
    assert not list(tmp_path.rglob("fault-*.json"))


def test_ranks_that_end_well_without_a_result_are_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    play(monkeypatch, launch_module, lambda *_: 0)
    with pytest.raises(StageFault, match="left no reason"):
        launch("a:build", toy_settings(), "align", Checkout(prepare(tmp_path)), "key", tmp_path / "out")


def test_ranks_are_started_as_the_table_of_processes_says(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []

    class Ended:
        returncode = 7

        def __init__(self, command: list[str], env: dict[str, str]) -> None:
            started.append(command)
            assert env == {"A": "b"}

        def poll(self) -> int:
            return 7

    monkeypatch.setattr(launcher.subprocess, "Popen", Ended)
    assert launcher.run_ranks(["--stage", "align"], ranks=3, environment={"A": "b"}) == 7
    (command,) = started
    assert command[:6] == [sys.executable, "-m", "components.engine.launcher", "--standalone", "--log-dir", os.devnull]
    assert command[6:11] == ["--nproc-per-node=3", "-m", stages.PROCESSES["worker"], "--stage", "align"]
    assert command[11] == "--launcher"


def test_worker_trains_or_computes_as_its_stage_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[str, str, Settings]] = []
    settings = toy_settings()
    write_json(tmp_path / "settings.json", settings.model_dump(mode="json", by_alias=True))
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.setattr(worker.watchdog, "end_with", lambda *_: None)
    monkeypatch.setattr(worker, "train", lambda options, loaded: called.append(("train", options.stage, loaded)))
    monkeypatch.setattr(worker, "infer", lambda options, loaded: called.append(("infer", options.stage, loaded)))
    for stage in ("reward", "align", "critique", "reference", "evaluate"):
        arguments = ["--factory", "a:b", "--stage", stage, "--root", ".", "--scratch", str(tmp_path)]
        monkeypatch.setattr(sys, "argv", ["worker", *arguments, "--launcher", "1", "--launcher-started", "0"])
        worker.main()
    kinds: list[tuple[str, StageName]] = [
        ("train", "reward"),
        ("train", "align"),
        ("infer", "critique"),
        ("infer", "reference"),
        ("infer", "evaluate"),
    ]
    assert called == [(kind, stage, settings.for_stage(stage)) for kind, stage in kinds]


def test_checkpoint_of_another_number_of_ranks_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-4"
    folder.mkdir()
    (folder / "weights").write_bytes(b"weights")
    commit(folder, 4, world=2, extra={})
    assert (folder / COMMITTED).is_file()
    with pytest.raises(StageFault, match="was written by 2 ranks, not 1"):
        checkpoints.resume(tmp_path, RankContext(0, 1), print)
    assert checkpoints.resume(tmp_path / "empty", RankContext(0, 1), print) is None


def test_section_of_a_stage_holds_its_learning_rate() -> None:
    settings = toy_settings()
    assert optimization_of(settings, "reward") is settings.reward
    assert optimization_of(settings, "align") is settings.alignment


def test_ranks_compute_their_shares_and_note_their_progress(tmp_path: Path) -> None:
    with ContentCache(Checkout(tmp_path), "squares") as cache:
        task = squares(cache, [4, 9, 1, 7])
        write_json(tmp_path / "plan.json", [share_out([[1, 3, 0], [2]], 2, lockstep=True)])
        end = compute_shares([task], Ranks(1, 2), tmp_path)
        # Rank 1 has the second batch; as many as rank 0 has, so nothing is repeated.
        assert task.seen == [[1]]
        assert cache.find(["1", "9"]) == {"1": 1}
    assert (tmp_path / "progress-1.jsonl").read_text() == "[0, 1]\n"
    assert (end["operations"], end["tokens"], end["slots"]) == (28.0, 2, 3)


def test_batch_that_only_keeps_ranks_in_step_stores_nothing(tmp_path: Path) -> None:
    with ContentCache(Checkout(tmp_path), "squares") as cache:
        task = squares(cache, [4, 9])
        write_json(tmp_path / "plan.json", [[[], [[[0], False]]]])
        compute_shares([task], Ranks(1, 2), tmp_path)
        assert task.seen == [[4]]
        assert cache.find(["4"]) == {}
    assert (tmp_path / "progress-1.jsonl").read_text() == "[0, 0]\n"


def test_spread_tasks_hand_their_ranks_plan_and_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_base: Path, tiny_media: Path
) -> None:
    settings = save_checkout(tmp_path, tiny_base, tiny_media, critique={"ranks": 2})
    seen: dict[str, Any] = {}

    def compute(options: dict[str, str], poll: Callable[[], None]) -> int:
        scratch = Path(options["--scratch"])
        seen.update(options, plan=read_json(scratch / "plan.json"), arguments=read_json(scratch / "arguments.json"))
        poll()
        for rank in range(2):
            end = {
                "operations": 140.0,
                "tokens": 10 + rank,
                "slots": 20,
                "seconds": 2.0 + rank,
                "peak_gb": 0.5,
                "startup_seconds": 1.0 + rank,
            }
            write_json(scratch / f"finished-{rank}.json", end)
        return 0

    play(monkeypatch, inference, compute)
    with ContentCache(Checkout(tmp_path), "squares") as cache:
        report = run_tasks([squares(cache, [4, 9, 1, 7])], Launch("a:tasks", "critique", {"x": 1}, "one"), settings, Checkout(tmp_path))
    assert (seen["--factory"], seen["--stage"], seen["arguments"]) == ("a:tasks", "critique", {"x": 1})
    assert seen["--scratch"] == str(tmp_path / ".mmalign/scratch/critique/ranks-one")
    assert seen["plan"] == [[[[[1, 3, 0], True]], [[[2], True]]]]
    assert (report.times["compute_seconds"], report.times["startup_seconds"]) == (3.0, 2.0)
    assert report.times["tokens_per_second"] == 21 / 3.0


def test_spread_tasks_raise_the_reason_of_a_rank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_base: Path, tiny_media: Path
) -> None:
    settings = save_checkout(tmp_path, tiny_base, tiny_media, critique={"ranks": 2})
    fault = {"kind": "mistake", "message": "a key is unknown", "known": True, "lost_a_peer": False, "time": 1.0}
    play(monkeypatch, inference, lambda options, _: (write_json(Path(options["--scratch"]) / "fault-1.json", fault), 1)[1])
    with ContentCache(Checkout(tmp_path), "squares") as cache, pytest.raises(UserError, match="a key is unknown"):
        run_tasks([squares(cache, [4])], Launch("a:tasks", "critique"), settings, Checkout(tmp_path))
    assert Launch("a:tasks", "critique").scratch(Checkout(tmp_path)) == tmp_path / ".mmalign/scratch/critique/ranks"


class Counter:
    """An opener that counts, and gives an empty model."""

    def __init__(self) -> None:
        self.calls: list[Path] = []

    def __call__(self, folder: Path, ranks: Ranks, settings: Settings) -> nn.Module:  # noqa: ARG002
        self.calls.append(folder)
        return nn.Linear(2, 2)


def test_model_is_opened_once_until_another_takes_its_slot() -> None:
    holder, opener = OneModel(toy_settings()), Counter()
    first = holder.open(Path("a"), Ranks(), opener)
    assert holder.open(Path("a"), Ranks(), opener) is first
    holder.open(Path("b"), Ranks(), opener)
    assert holder.open(Path("a"), Ranks(), opener) is not first
    assert opener.calls == [Path("a"), Path("b"), Path("a")]


def test_former_model_is_released_before_the_next_is_opened() -> None:
    holder = OneModel(toy_settings())
    holder.open(Path("a"), Ranks(), Counter())

    def opener(folder: Path, ranks: Ranks, settings: Settings) -> nn.Module:  # noqa: ARG001
        assert holder._opened is None
        return nn.Linear(1, 1)

    holder.open(Path("b"), Ranks(), opener)


def test_openers_give_models_of_the_training_precision(tmp_path: Path, tiny_base: Path) -> None:
    settings = toy_settings(precision="bf16")
    assert open_policy(tiny_base, Ranks(), settings).dtype == torch.bfloat16
    new_reward_model(models.load_model(tiny_base), seed=0).save(tmp_path, tiny_base)
    reward = open_reward_model(tmp_path, Ranks(), settings)
    assert reward.model.dtype == torch.bfloat16
    assert reward.head.out.weight.dtype == torch.float32
    assert reward.head(torch.ones(1, 32, dtype=torch.bfloat16)).dtype == torch.float32


def test_operations_are_those_of_the_open_language_model(tmp_path: Path, tiny_base: Path) -> None:
    holder, work = OneModel(toy_settings()), Work(tokens=10, slots=12, targets=3, pairs=40)
    assert holder.operations(work) == 0
    policy = holder.open(tiny_base, Ranks(), open_policy)
    expected = operations_of(policy).forward(10, 3, 40)
    assert holder.operations(work) == expected > 0
    new_reward_model(policy, seed=0).save(tmp_path, tiny_base)
    holder.open(tmp_path, Ranks(), open_reward_model)
    assert holder.operations(work) == expected  # without the score head


def test_training_key_follows_settings_inputs_and_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.txt").write_text("rows")
    code = {"reward": "1" * 64, "align": "2" * 64}
    monkeypatch.setattr(checkpoints, "code_digest", lambda stage: code[stage])

    def key(stage: StageName = "reward", settings: str = "{}") -> str:
        return training_key(Checkout(tmp_path), stage, settings=[settings], inputs=[Path("data")])

    first = key()
    assert len(first) == 16
    assert key() == first
    assert key(settings='{"seed": 1}') != first
    assert key("align") != first
    code["reward"] = "3" * 64
    assert key() != first
    code["reward"] = "1" * 64
    (tmp_path / "data/a.txt").write_text("changed")
    assert key() != first
