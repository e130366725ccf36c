"""A rank's heartbeat as its launcher reads it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from components.engine import progress
from components.processes import heartbeat
from components.processes.heartbeat import RING, Heartbeat, Reader


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Heartbeat:
    """This process as rank 1."""
    beats = Heartbeat(tmp_path, 1)
    monkeypatch.setattr(heartbeat, "_own", beats)
    return beats


def test_rank_without_a_file_has_no_reader(tmp_path: Path) -> None:
    assert Reader.open(tmp_path, 0) is None


def test_process_that_is_no_rank_writes_nothing(tmp_path: Path) -> None:
    assert heartbeat.own() is None
    heartbeat.beat()
    heartbeat.enter("a part")
    with heartbeat.work("a file"), heartbeat.attentive():
        heartbeat.end()
    assert not list(tmp_path.iterdir())


def test_reader_sees_part_step_module_and_announcement(tmp_path: Path, own: Heartbeat) -> None:
    reader = Reader(tmp_path, 1)
    assert (reader.read().work, reader.read().announced, reader.read().parts) == ("the start", True, 0)
    own.names(["head", "layers.0"])
    heartbeat.enter("forward", step=7)
    own.beat(1)
    sign = reader.read()
    assert (sign.part, sign.step, sign.module, sign.announced, sign.ended) == ("forward", 7, "layers.0", False, False)
    before = reader.beats()
    heartbeat.beat()
    assert reader.beats() == before + 1
    assert reader.read().module == "layers.0"
    heartbeat.end()
    assert reader.read().ended


def test_announcements_nest_and_end(tmp_path: Path, own: Heartbeat) -> None:
    reader = Reader(tmp_path, 1)
    own.enter("a checkpoint")
    with heartbeat.work("its files"):
        with heartbeat.attentive():
            assert not reader.read().announced
            with heartbeat.work("a digest"):
                assert (reader.read().work, reader.read().announced) == ("a digest", True)
        assert reader.read().work == "its files"
    assert not reader.read().announced


def test_attentive_rank_that_waits_for_none_stays_announced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "_own", Heartbeat(tmp_path, 0, in_step=False))
    with heartbeat.attentive():
        assert Reader(tmp_path, 0).read().announced


def test_calls_of_a_step_run_over_its_parts(tmp_path: Path, own: Heartbeat) -> None:
    own.names(["head", "layers.0"])
    own.enter("forward", step=1)
    own.gather(0, backward=False)
    own.enter("backward", step=1)
    own.gather(1, backward=True)
    calls = Reader(tmp_path, 1).read(with_calls=True).calls
    assert calls == ("its next part", "head", "its next part", "layers.0 (backward)")
    own.enter("forward", step=2)
    assert Reader(tmp_path, 1).read(with_calls=True).calls == ("its next part",)


def test_only_the_last_calls_are_remembered(tmp_path: Path, own: Heartbeat) -> None:
    own.names(["a", "b"])
    own.enter("forward", step=1)
    for number in range(RING + 1):
        own.gather(int(number == RING), backward=False)
    sign = Reader(tmp_path, 1).read(with_calls=True)
    assert (sign.count, len(sign.calls)) == (RING + 2, RING)
    assert sign.calls[-2:] == ("a", "b")


class Blocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Linear(2, 2)
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(2, 2), nn.Tanh()), nn.Linear(2, 2)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for module in (self.embedding, *self.blocks):
            x = module(x)
        return x


def test_blocks_beat_forward_and_weights_beat_backward(tmp_path: Path, own: Heartbeat) -> None:
    model = Blocks()
    model.embedding.requires_grad_(False)
    progress.follow(model)
    reader = Reader(tmp_path, 1)
    before = reader.beats()
    output = model(torch.ones(1, 2))
    assert reader.beats() == before + 3
    assert reader.read().module == "blocks.1"
    output.sum().backward()
    assert reader.beats() == before + 3 + 4
    assert own is heartbeat.own()


@pytest.mark.slow
def test_compilation_is_announced(tmp_path: Path, own: Heartbeat) -> None:
    own.enter("forward", step=1)
    seen: list[str] = []

    def backend(graph: torch.fx.GraphModule, _: object) -> object:
        seen.append(Reader(tmp_path, 1).read().work)
        return graph.forward

    heartbeat.announce_compilations()
    torch.compile(lambda x: x + 1, backend=backend)(torch.ones(2))
    assert seen == ["a compilation"]
    assert not Reader(tmp_path, 1).read().announced
