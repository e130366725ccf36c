from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.coverage import Cell, Simulation, above, coverage, read_generator

ROOT = Path(__file__).resolve().parents[2]
CELL = Cell("difference", 300, (60,), "unequal", (0.5, 0.5), 0.3)


def test_bundled_generator_is_covered_and_rarely_errs() -> None:
    simulation = Simulation(read_generator(ROOT / "benchmarks/coverage_generator.py"), 500)
    assert 0.92 <= coverage(simulation, CELL) <= 0.99
    assert simulation.share(CELL, above(CELL, 0, 0.025)) <= 0.06
    assert simulation.share(CELL, above(CELL, 0, 0.025)) == simulation.share(CELL, above(CELL, 0, 0.025))


def test_exchanged_generator_with_other_rate_is_not_covered(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from types import SimpleNamespace\n"
        "import numpy as np\n\n"
        "def draw(cell, random, simulations):\n"
        "    events = random.random((len(cell.rates), simulations, cell.rows)) < 0.2\n"
        "    clusters = {'wording': np.arange(cell.rows) % cell.groups[0]}\n"
        "    return SimpleNamespace(clusters=clusters, cases=np.ones(cell.rows), events=events.astype(float))\n"
    )
    simulation = Simulation(read_generator(file), 200)
    assert coverage(simulation, Cell("proportion", 300, (60,), "equal", (0.5,), 0.0)) == pytest.approx(0)
    assert coverage(simulation, Cell("proportion", 300, (60,), "equal", (0.2,), 0.0)) >= 0.9
