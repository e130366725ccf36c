"""How the end of a rank reaches the stage: real torchrun, ranks of a few lines."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from components.checkout import Checkout
from components.engine.launcher import NO_ROOM, fault_of, leave_fault, rank_environment, run_ranks
from components.errors import InfrastructureFault, StageFault, TrainingFault, UserError
from components.processes.fault_kinds import fault_kind

RANK = """
import argparse, os, pathlib, signal, sys, time
sys.path.insert(0, {repository!r})
from components.errors import TrainingFault, UserError
from components.engine.launcher import leave_fault

parser = argparse.ArgumentParser()
parser.add_argument("--scratch", type=pathlib.Path)
parser.add_argument("--end")
options, _ = parser.parse_known_args()
rank = int(os.environ["RANK"])
try:
    if rank == 1 and options.end.startswith("SIG"):
        os.kill(os.getpid(), getattr(signal, options.end))
    if rank == 1 and options.end == "training":
        raise TrainingFault("the loss is nan")
    if rank == 1 and options.end == "mistake":
        raise UserError("a key is unknown: mend it")
    if rank == 1 and options.end == "full":
        raise OSError(28, "No space left on device")
    time.sleep(60 if options.end != "peer" else 0)
    raise RuntimeError("Connection closed by peer [127.0.0.1]:7")
except BaseException as error:
    leave_fault(options.scratch, rank, error)
    raise
"""


def end_of(tmp_path: Path, end: str, scratch: Path | None = None) -> Exception:
    (tmp_path / "arank.py").write_text(RANK.format(repository=str(Path(__file__).parents[2])))
    environment = rank_environment(Checkout(tmp_path), 1)
    environment["PYTHONPATH"] += os.pathsep + str(tmp_path)
    scratch = scratch or tmp_path
    code = run_ranks(["--scratch", str(scratch), "--end", end], ranks=2, environment=environment, module="arank")
    return fault_of(scratch, "align", code)


@pytest.mark.slow
def test_rank_ended_by_a_signal_is_infrastructure_and_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    for name in ("SIGKILL", "SIGBUS"):
        fault = end_of(tmp_path, name)
        assert isinstance(fault, InfrastructureFault)
        assert str(fault).startswith(f"align: a rank was ended by {name}")
    assert list(temporary.iterdir()) == [], "a run leaves nothing among the temporary files"


@pytest.mark.slow
def test_a_rank_s_own_reason_keeps_its_kind(tmp_path: Path) -> None:
    kinds = {"training": TrainingFault, "mistake": UserError, "full": InfrastructureFault}
    for end, kind in kinds.items():
        scratch = tmp_path / end
        scratch.mkdir()
        fault = end_of(tmp_path, end, scratch)
        assert type(fault) is kind
    assert str(end_of(tmp_path, "mistake", tmp_path)) == "a key is unknown: mend it"


@pytest.mark.slow
def test_a_rank_that_can_write_down_nothing_is_infrastructure(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    fault = end_of(tmp_path, "full", file)  # no folder: what a rank leaves there has no room
    assert isinstance(fault, InfrastructureFault)
    assert "the disk is full" in str(fault)


def test_failed_ranks_reason_precedes_that_of_one_that_lost_it(tmp_path: Path) -> None:
    leave_fault(tmp_path, 0, RuntimeError("Connection closed by peer [127.0.0.1]:7"))
    leave_fault(tmp_path, 1, ValueError("a shape is wrong"))
    fault = fault_of(tmp_path, "align", 1)
    assert str(fault) == "align: ValueError: a shape is wrong"
    assert fault_kind(fault) == "fault"


def test_a_lost_peer_is_explained_by_the_signal_that_ended_it(tmp_path: Path) -> None:
    leave_fault(tmp_path, 0, RuntimeError("Connection closed by peer [127.0.0.1]:7"))
    assert "SIGKILL" in str(fault_of(tmp_path, "align", 128 + signal.SIGKILL))
    assert "torchrun was ended by SIGKILL" in str(fault_of(tmp_path, "align", -signal.SIGKILL))
    assert fault_kind(fault_of(tmp_path, "align", 1)) == "infrastructure"


def test_ranks_that_left_nothing_are_a_fault(tmp_path: Path) -> None:
    fault = fault_of(tmp_path, "align", 1)
    assert type(fault) is StageFault
    assert isinstance(fault_of(tmp_path, "align", NO_ROOM), InfrastructureFault)
