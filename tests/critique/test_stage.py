from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from components.checkout import Checkout
from components.critique import stage, task
from components.families.loading import load_model
from components.reward.model import new_reward_model
from tests.tiny import queries, save_checkout


def test_killed_run_resumes_and_every_response_gets_its_score(
    tmp_path: Path, tiny_base: Path, tiny_media: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = save_checkout(tmp_path, tiny_base, tiny_media, critique={"batch_size": 4, "max_new_tokens": 6})
    new_reward_model(load_model(tiny_base), seed=0).save(tmp_path / "artifacts/reward/model", tiny_base)
    whole = stage.run(settings, Checkout(tmp_path))
    table = tmp_path / "artifacts/critique/train.parquet"
    rows = pq.read_table(table).to_pylist()
    assert [(row["id"], row["response"]) for row in rows] == [(q.id, n) for q in queries() for n in range(len(q.responses))]
    assert whole.times["train.responses_computed"] == len(rows)
    assert whole.times["heldout.responses_computed"] == 0
    expected = table.read_bytes()

    for path in (tmp_path / ".mmalign/cache").glob("critiques*"):
        path.unlink()
    judge_part, parts = task.judge_together, []

    def stop_at_the_third(*arguments: object) -> object:
        parts.append(1)
        if len(parts) == 3:
            raise KeyboardInterrupt
        return judge_part(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(task, "judge_together", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        stage.run(settings, Checkout(tmp_path))
    resumed = stage.run(settings, Checkout(tmp_path))
    assert 0 < resumed.times["train.responses_computed"] < len(rows)
    assert table.read_bytes() == expected
