from __future__ import annotations

import base64
import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from components.checkout import Checkout
from components.report import samples as module
from components.report.metrics import read_answers
from components.report.record import Row, read_record
from components.report.samples import Sample, Samples, mark, read_samples


def samples_of(root: Path) -> Samples:
    record = read_record(Checkout(root))
    return read_samples(record, read_answers(record))


def rewrite(root: Path, name: str, **values: object) -> None:
    """Set columns of the aligned policy's answer to the query whose id starts with `name`."""
    path = root / "artifacts/evaluate/answers.parquet"
    table = pq.read_table(path)
    rows: list[Row] = table.to_pylist()
    (row,) = [row for row in rows if row["policy"] == "aligned" and row["id"].startswith(name)]
    row |= values
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)


def ids(samples: Samples, group: int) -> list[str]:
    return [sample.id.partition("<")[0] for sample in samples.groups[group].samples]


def test_samples_order_regressions_then_repairs_then_rest(run: Path) -> None:
    samples = samples_of(run)
    assert [(group.title, group.total) for group in samples.groups] == [
        ("Right before, wrong now", 3),
        ("Wrong before, right now", 12),
        ("Wrong before and now", 3),
    ]
    assert ids(samples, 0) == ["mcq-0000", "mcq-0010", "mcq-0020"]
    assert len(samples.groups[1].samples) == 8
    assert {sample.category for sample in samples.groups[1].samples} == {"long", "short", "safety", "video"}
    assert (samples.compared, samples.both_right) == (30, 12)


def test_worst_regressions_come_first(run: Path) -> None:
    rewrite(run, "safety-0008", safe=False, refused=False)
    rewrite(run, "safety-0018", right=False, refused=True)
    rewrite(run, "short-0022", right=False, degenerate=True)
    assert ids(samples_of(run), 0) == ["short-0022", "safety-0008", "safety-0018", "mcq-0000", "mcq-0010", "mcq-0020"]


def one(samples: Samples, name: str) -> Sample:
    (matching,) = [sample for group in samples.groups for sample in group.samples if sample.id.startswith(name)]
    return matching


def test_sample_has_image_answers_critiques_and_responses(run: Path) -> None:
    sample = one(samples_of(run), "mcq-0010")
    assert [(answer.policy, answer.text, answer.mark) for answer in sample.answers] == [
        ("base", "base says yes", "right"),
        ("aligned", "aligned says no", "wrong"),
    ]
    assert sample.answers[1].critique is not None
    assert sample.answers[1].score == -1.25
    assert [(response.rank, response.score) for response in sample.responses] == [(1, 0.0), (2, -1.0), (3, -2.0)]
    (image,) = sample.images
    kind, _, content = image.partition(";base64,")
    assert kind in {"data:image/png", "data:image/jpeg"}
    with Image.open(io.BytesIO(base64.b64decode(content))) as picture:
        assert picture.size == (96, 72)


def test_critique_of_other_answer_is_not_shown(run: Path) -> None:
    rewrite(run, "mcq-0010", answer="something else")
    assert one(samples_of(run), "mcq-0010").answers[1].critique is None


def test_video_shows_frames_of_whole_length(run: Path) -> None:
    sample = one(samples_of(run), "video-0009")
    assert len(sample.images) == 4
    assert sample.media == "6 frames, 4 shown"


@pytest.mark.parametrize("path", ["../../reports/summary.json", "/etc/hostname", "mcq", "no/such.png"])
def test_media_outside_or_missing_are_not_shown(run: Path, path: str) -> None:
    rewrite(run, "mcq-0010", media=path)
    sample = one(samples_of(run), "mcq-0010")
    assert sample.images == []
    assert sample.media.startswith("no image: ")


def test_link_out_of_media_is_not_followed(run: Path, tmp_path: Path) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "private.png")
    path = run / "data/preferences/mcq/10.png"
    path.unlink()
    path.symlink_to(tmp_path / "private.png")
    sample = one(samples_of(run), "mcq-0010")
    assert sample.images == []
    assert "leads out" in sample.media


def test_thumbnail_has_no_metadata(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    exif = Image.Exif()
    exif[0x010E] = "who took it, and where"
    Image.new("RGB", (640, 480), (10, 200, 30)).save(path, exif=exif, comment=b"a comment of the camera")
    content = base64.b64decode(module.thumbnail(path).partition(",")[2])
    assert b"who took it" not in content
    assert b"camera" not in content


def test_images_stop_at_page_limit(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IMAGE_BUDGET", 1000)
    samples = samples_of(run)
    shown = [image for group in samples.groups for sample in group.samples for image in sample.images]
    assert 0 < sum(map(len, shown)) <= 1000
    assert any("no room" in sample.media for group in samples.groups for sample in group.samples)


JUDGED = {"degenerate": False, "safe": None, "right": None, "refused": None, "hallucinated": None}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"degenerate": True, "safe": False}, "degenerate"),
        ({"safe": True}, "safe"),
        ({"safe": False}, "unsafe"),
        ({"right": True}, "right"),
        ({"right": False, "refused": True}, "wrong, refused"),
        ({"right": False, "hallucinated": True}, "wrong, invented"),
        ({}, "not judged"),
    ],
)
def test_judgement_is_one_or_two_words(row: Row, words: str) -> None:
    assert mark({**JUDGED, **row}) == words
