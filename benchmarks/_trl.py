"""TRL's DPOTrainer as one side of a comparison: its own trainer, vision collator, chunked log-probs and training step.

The settings favor TRL:
- gradient checkpointing is off, its batches are built beforehand, and all responses have one length, so that no row needs padding;
- it runs a query in the faster of two ways: all pairs in one batch, or pair by pair with accumulation;
- on a CPU its chunked head would score every position of a sequence; here it scores only the response's, as it does on a GPU.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks._models import Task


class TrlSide:
    """One query's pairs as batches of `DPOTrainer`, and a training step over them."""

    def __init__(self, policy: Any, reference: Any, task: Task, beta: float, folder: Path) -> None:
        from datasets import Dataset
        from trl import DPOConfig, DPOTrainer
        from trl.trainer.dpo_trainer import DataCollatorForVisionPreference

        rows = [
            {"images": [task.image], "prompt": task.prompt, "chosen": task.responses[winner], "rejected": task.responses[loser]}
            for winner, loser in task.pairs
        ]
        arguments = DPOConfig(
            output_dir=str(folder),
            beta=beta,
            bf16=False,
            fp16=False,
            use_cpu=policy.device.type == "cpu",
            report_to=[],
            max_length=None,
            gradient_checkpointing=False,
        )
        self.policy = policy
        self.trainer = DPOTrainer(
            model=policy,
            ref_model=reference,
            args=arguments,
            train_dataset=Dataset.from_list([dict(row) for row in rows]),
            processing_class=task.processor,
        )
        collate = DataCollatorForVisionPreference(task.processor)
        self.together = [collate(copy.deepcopy(rows))]
        self.apart = [collate(copy.deepcopy([row])) for row in rows]
        assert [len(batch["input_ids"]) for batch in self.together] == [2 * len(rows)]

    @property
    def row_ids(self) -> list[list[int]]:
        """Tokens of every sequence of the batch with all pairs: the chosen ones, then the rejected ones."""
        return self.together[0]["input_ids"].tolist()  # type: ignore[no-any-return]

    def losses_and_gradients(self, batches: Sequence[Any]) -> float:
        """Run the trainer's own `training_step` over `batches` as one accumulated step; return the mean loss."""
        import trl.trainer.utils

        self.trainer.current_gradient_accumulation_steps = len(batches)
        # In that module this name only selects the positions to score; the kernel's module has its own.
        with patch.object(trl.trainer.utils, "_use_triton", lambda _: True):
            return sum(float(self.trainer.training_step(self.policy, dict(batch)).detach()) for batch in batches)
