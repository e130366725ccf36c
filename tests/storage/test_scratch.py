from __future__ import annotations

from pathlib import Path

from components.checkout import Checkout
from components.storage.plan import Step
from components.storage.scratch import remove_finished_checkpoints, remove_finished_scratch


def test_finished_training_frees_its_checkpoints_at_once(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path)
    for stage in ("reward", "align"):
        (checkout.scratch(stage) / "key/step-20").mkdir(parents=True)
        (checkout.scratch(stage) / "key/step-20/weights").write_text("many bytes")
        (checkout.scratch(stage) / "key/curves.jsonl").write_text("{}\n")
    steps = {"validate": Step("skip", "nothing changed"), "reward": Step("skip", "nothing changed"), "align": Step("run", "new")}
    remove_finished_checkpoints(checkout, steps)
    files = sorted(path.relative_to(checkout.scratch()).as_posix() for path in checkout.scratch().rglob("*") if path.is_file())
    assert files == ["align/key/curves.jsonl", "align/key/step-20/weights", "reward/key/curves.jsonl"]
    remove_finished_scratch(checkout, steps)  # as the next run does
    assert sorted(path.name for path in checkout.scratch().iterdir()) == ["align"]
