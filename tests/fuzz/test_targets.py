"""Each target of `make fuzz` withstands its stored inputs and a few that are the same every time, and a finding is one."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st

from components.errors import UserError
from tests.fuzz.engines import examples
from tests.fuzz.targets import CORPUS, MAKERS, Target, target

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
    assert "KeyError" in finding
