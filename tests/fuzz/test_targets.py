"""Each target of `make fuzz` runs, and one that raises what it does not document is a finding."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st

from components.errors import UserError
from tests.fuzz.__main__ import fuzz
from tests.fuzz.targets import TARGETS, Target


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_target_has_no_finding_in_half_a_second(name: str) -> None:
    tried, finding = fuzz(TARGETS[name], 0.5, 0)
    assert finding is None, finding
    assert tried


def test_undocumented_exception_is_a_finding() -> None:
    def parse(value: int) -> None:
        if value > 1000:
            raise KeyError(value)

    _, finding = fuzz(Target(st.integers(), parse, (UserError,)), 20, 0)
    assert finding is not None
    assert "KeyError: 1001" in finding
