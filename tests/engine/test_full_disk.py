"""A disk that fills up while a checkpoint is written, on a real file system of a few megabytes."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from components.engine.checkpoints import COMMITTED
from components.files import digest_file
from tests.engine.conftest import launch_apart, prepare, toy_settings, train

LEFT_BYTES = 12_000  # more than the curves take until the next save, and less than a checkpoint


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A root whose scratch folder lies on a disk of 8 MB."""
    scratch = tmp_path / ".mmalign" / "scratch"
    scratch.mkdir(parents=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(scratch)], capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.strip()}")
    yield tmp_path
    subprocess.run(["umount", str(scratch)], check=True)


@pytest.mark.slow
def test_full_disk_in_a_save_leaves_the_checkpoint_before(
    small_disk: Path, undisturbed: Path, wait_for: Callable[[Callable[[], bool], float], None]
) -> None:
    root = prepare(small_disk, micro_seconds=0.3)
    process = launch_apart(root, toy_settings(), root / "log")
    scratch = root / ".mmalign" / "scratch"
    try:
        wait_for(lambda: process.poll() is not None or any(scratch.glob(f"align/*/checkpoint-4/{COMMITTED}")), 600)
        assert process.poll() is None, (root / "log").read_text()
        ballast = scratch / "ballast"
        ballast.write_bytes(b"x" * (shutil.disk_usage(scratch).free - LEFT_BYTES))
        process.wait(300)
    finally:
        process.kill()
        process.wait()
    log = (root / "log").read_text()
    assert "components.errors.InfrastructureFault: align: " in log
    assert not list(scratch.glob(f"align/*/checkpoint-8/{COMMITTED}")), "the disk was full too late"

    ballast.unlink()
    prepare(root)
    assert train(root, toy_settings()).resumed_from == 4
    assert digest_file(root / "out/model.safetensors") == digest_file(undisturbed / "out/model.safetensors")
