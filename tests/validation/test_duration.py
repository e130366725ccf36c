from pathlib import Path

import pytest

from components.validation.duration import validation_seconds


def test_duration_grows_with_rows_and_media(tmp_path: Path) -> None:
    assert validation_seconds(tmp_path / "absent") == 0
    (tmp_path / "data.jsonl").write_bytes(b"x" * 1_000_000)
    assert validation_seconds(tmp_path) == 2
    (tmp_path / "short").mkdir()
    (tmp_path / "short/a.png").write_bytes(b"x" * 500_000)
    (tmp_path / "short/gone.png").symlink_to(tmp_path / "nowhere")
    assert validation_seconds(tmp_path) == pytest.approx(2 + 0.01 + 0.01)
