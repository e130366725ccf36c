"""Each target of `make fuzz` withstands its stored inputs and a few that are the same every time, and a finding is one."""

from __future__ import annotations

import math
import sys
import time
from dataclasses import replace

import pytest
from hypothesis import strategies as st

from components.errors import UserError
from tests.fuzz import engines, watch
from tests.fuzz.engines import examples
from tests.fuzz.targets import CORPUS, MAKERS, Target, target
from tests.fuzz.watch import TooLarge, TooSlow

SLOW = {"adapters", "processor", "templates"}  # they load torch, or start a process an input
EXAMPLES, SEED = 15, 20_261_129


@pytest.mark.parametrize("name", sorted(MAKERS.keys() - SLOW))
def test_target_has_no_finding(name: str) -> None:
    tried, finding = examples(target(name), EXAMPLES, SEED)
    assert finding is None, finding
    assert tried


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SLOW))
def test_slow_target_has_no_finding(name: str) -> None:
    for content in target(name).good:  # loads torch
        replace(target(name), seconds=math.inf).run(content)
    tried, finding = examples(target(name), EXAMPLES, SEED)
    assert finding is None, finding
    assert tried


@pytest.mark.parametrize("name", sorted(MAKERS.keys() - SLOW))
def test_good_and_stored_inputs_have_no_finding(name: str) -> None:
    one = target(name)
    for content in (*one.good, *one.stored()):
        one.run(content)
    assert one.good


def test_corpus_is_small_and_of_targets() -> None:
    assert {path.name for path in CORPUS.iterdir()} <= MAKERS.keys()
    assert sum(path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()) < 2_000_000


def test_same_seed_tries_the_same_inputs() -> None:
    tried: list[list[bytes]] = []
    for _ in range(2):
        tried.append([])
        examples(Target(tried[-1].append, (UserError,), [b"good"], target("rankings").made), 20, SEED)
    assert tried[0] == tried[1]


def test_undocumented_exception_is_a_finding() -> None:
    def parse(content: bytes) -> None:
        if len(content) > 3:
            raise KeyError(content)

    _, finding = examples(Target(parse, (UserError,), [b""], st.binary()), 500, 0)
    assert finding is not None
    assert "KeyError" in finding.trace
    assert finding.content == b"\0" * 4


def test_finding_whose_repetition_passes_is_reported() -> None:
    tried: list[bytes] = []

    def parse(content: bytes) -> None:
        tried.append(content)
        if len(tried) == 5:
            raise KeyError(content)

    _, finding = examples(Target(parse, (UserError,), [b""], st.binary()), 50, 0)
    assert finding is not None
    assert finding.content == tried[4]


def test_slow_input_is_a_finding() -> None:
    def parse(_: bytes) -> None:
        until = time.process_time() + 0.1
        while time.process_time() < until:
            pass
        raise UserError("documented")

    with pytest.raises(TooSlow):
        Target(parse, (UserError,), [], st.binary(), seconds=0.05).run(b"")
    Target(parse, (UserError,), [], st.binary()).run(b"")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_large_input_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "MEMORY_BYTES", 50 * 2**20)
    large = Target(lambda content: len(bytearray(b"x") * (len(content) * 2**20)), (UserError,), [], st.binary())
    large.run(b"x" * 10)
    with pytest.raises(TooLarge):
        large.run(b"x" * 100)


def test_parser_that_ends_its_process_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    ending = (sys.executable, "-c", "import os, sys; open(sys.argv[4] + '/input', 'w').write('the input'); os.abort()")
    monkeypatch.setattr(engines, "STRUCTURED", ending)
    tried, finding = engines.by_hypothesis("rankings", 1, 0)
    assert (tried, finding is None) == (0, False)
    assert "ends with -6" in str(finding)
    assert "b'the input'" in str(finding)


@pytest.mark.parametrize(("bound", "does"), [("HANGING_SECONDS", "while True: pass"), ("BLOCKED_SECONDS", "time.sleep(60)")])
def test_parser_that_hangs_is_a_finding(monkeypatch: pytest.MonkeyPatch, bound: str, does: str) -> None:
    hanging = (sys.executable, "-c", f"import sys, time; open(sys.argv[4] + '/input', 'w').write('the input')\n{does}")
    monkeypatch.setattr(engines, "STRUCTURED", hanging)
    monkeypatch.setattr(engines, bound, 1)
    tried, finding = engines.by_hypothesis("rankings", 1, 0)
    assert (tried, "hangs" in str(finding), "b'the input'" in str(finding)) == (0, True, True)


def test_process_of_hypothesis_counts_what_it_tried() -> None:
    tried, finding = engines.by_hypothesis("rankings", 0.2, 0)
    assert tried > 1
    assert finding is None
