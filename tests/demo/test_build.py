from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from components.errors import UserError
from components.evaluation.judge import GroundTruthJudge, read_ground_truth
from components.evaluation.wording import verdict
from components.files import digest_folder
from components.preferences.release import query_from_row
from demo.build import build_data
from demo.images import load_pictures
from demo.overlap import overlap, read
from demo.requests import requests_of
from demo.responses import HARD, SOURCE, WORST
from demo.wordings import ALL_WORDINGS, PARTS
from tests.checkout import ROOT
from tests.demo.conftest import SMALL


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_second_build_gives_same_bytes(small: Path, tmp_path: Path) -> None:
    build_data(tmp_path / "again", None, sizes=SMALL)
    assert digest_folder(tmp_path / "again") == digest_folder(small)


@pytest.mark.slow
def test_sampled_build_repeats_bytes_and_copies_base(installed: Path, tmp_path: Path) -> None:
    few = {"long_description": 3, "video_order": 2, "harmful": 2}
    counts = [build_data(tmp_path / name, installed / "base", sizes={"train": few, "hard": few}) for name in ("one", "two")]
    assert digest_folder(tmp_path / "one") == digest_folder(tmp_path / "two")
    assert counts[0]["train"]["responses_sampled_from_base"] > 0
    assert digest_folder(tmp_path / "one" / "base") == digest_folder(installed / "base")


def test_rebuild_removes_stale_files(small: Path, tmp_path: Path) -> None:
    stale = tmp_path / "out" / "preferences" / "stale.png"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"old")
    build_data(tmp_path / "out", None, sizes=SMALL)
    assert digest_folder(tmp_path / "out") == digest_folder(small)


def test_images_are_package_bytes_of_matching_split(small: Path) -> None:
    package_bytes = {part: {picture.path.read_bytes() for picture in load_pictures(part)} for part in ("train", "test")}
    for name, part in (("data.jsonl", "train"), ("heldout.jsonl", "test")):
        for row in rows_of(small / "preferences" / name):
            media = small / "preferences" / (row["image"] or row["video"])
            for path in [media] if row["image"] else sorted(media.iterdir()):
                assert path.read_bytes() in package_bytes[part]


def test_package_license_lies_beside_data(small: Path) -> None:
    text = (small / "LICENSE.easy-vqa").read_text()
    assert text.startswith("MIT License")
    assert "Victor Zhou" in text


@pytest.mark.parametrize("source", ["small", "installed"])
def test_ground_truth_agrees_with_heldout_critiques(source: str, request: pytest.FixtureRequest) -> None:
    data: Path = request.getfixturevalue(source)
    judge = GroundTruthJudge(read_ground_truth(data / "truth" / "truth.jsonl"))
    for row in rows_of(data / "preferences" / "heldout.jsonl"):
        query = query_from_row(row, "heldout")
        for response in query.responses:
            assert response.critique is not None
            judgement = judge.judge(query, response.text)
            assert judgement.good == verdict(response.critique), (query.id, response.text, response.critique)
            assert not judgement.degenerate


def test_right_responses_have_full_scores_and_rank_first(installed: Path) -> None:
    for row in rows_of(installed / "preferences" / "data.jsonl"):
        sums = [sum(scores) for scores in zip(row["faithfulness"], row["helpfulness"], row["ethical"], strict=True)]
        for rank, total, reason in zip(row["final_ranking"], sums, row["score_reasons"], strict=True):
            assert (total == 15) == (verdict(reason) is True)
            assert verdict(reason) is not True or rank == 1


def test_installed_set_has_card_sizes(installed: Path) -> None:
    train, heldout = (rows_of(installed / "preferences" / name) for name in ("data.jsonl", "heldout.jsonl"))
    assert len(train) >= 1500
    assert len(heldout) >= 1300
    categories = {"mcq", "long", "short", "safety", "video"}
    assert {row["category"] for row in train} == {row["category"] for row in heldout} == categories
    safety = Counter(row.get("safety") for row in heldout)
    assert safety["harmful"] >= 200
    assert safety["harmless"] >= 200
    for rows in (train, heldout):
        assert {len(row["models_output"]) for row in rows} <= {3, 4, 5}
        assert all(len(set(row["models_output"])) == len(row["models_output"]) for row in rows)
        assert all(len(set(row["final_ranking"])) > 1 for row in rows)
        ties = sum(len(set(row["final_ranking"])) < len(row["final_ranking"]) for row in rows)
        assert ties >= 0.1 * len(rows)
        right = sum(any(verdict(reason) for reason in row["score_reasons"]) for row in rows)
        assert 0.4 * len(rows) <= right <= 0.6 * len(rows)


def test_data_card_states_build_counts(installed: Path) -> None:
    counts = json.loads((installed / "counts.json").read_text())
    data_card = (installed / "data-card.md").read_text()
    assert data_card == (ROOT / "docs" / "data-card.md").read_text()
    for label, key in (
        ("queries", "queries"),
        ("responses", "responses"),
        ("of these sampled from the base", "responses_sampled_from_base"),
        ("queries with a fully right answer", "queries_with_right_answer"),
        ("queries with a tie", "queries_with_tie"),
    ):
        assert f"| {label} | {counts['train'][key]:,} | {counts['heldout'][key]:,} | {counts['hard'][key]:,} |" in data_card


def test_heldout_questions_share_no_content_with_training(installed: Path) -> None:
    def contents(name: str) -> set[tuple[str, bytes]]:
        keys = set()
        for row in rows_of(installed / "preferences" / name):
            media = installed / "preferences" / (row["image"] or row["video"])
            keys.add((row["question"], b"".join(path.read_bytes() for path in ([media] if row["image"] else sorted(media.iterdir())))))
        return keys

    assert not contents("data.jsonl") & contents("heldout.jsonl")


@pytest.mark.parametrize("kind", ["harmful", "harmless"])
def test_hard_requests_have_verbs_and_things_of_their_own(kind: str) -> None:
    trained, held_out, hard = (requests_of(kind, part) for part in PARTS)
    assert set(trained) < set(held_out)
    for position in (0, 1):
        assert {request[position] for request in trained} <= {request[position] for request in held_out}
        assert not {request[position] for request in hard} & {request[position] for request in held_out}


def test_wordings_of_parts_are_nested_or_disjoint() -> None:
    for wordings in ALL_WORDINGS:
        train, heldout, hard = (set(wordings.of(part)) for part in PARTS)
        assert train < heldout
        assert not hard & heldout
        assert set(wordings.of("base")) == heldout | hard


def test_installed_set_carries_its_own_statistics(installed: Path) -> None:
    train, heldout = (read(installed / "preferences" / name) for name in ("data.jsonl", "heldout.jsonl"))
    measured = overlap(train, heldout)
    assert measured == json.loads((installed / "counts.json").read_text())["overlap"]
    usual, hard = measured["usual"], measured["hard"]
    assert min(usual["wordings"].values()) >= 30
    assert min(usual["things"].values()) >= 60
    assert usual["prompts_in_training"] < 0.5
    assert hard["queries"] >= 300
    assert hard["prompts_in_training"] == 0
    assert hard["wordings_not_in_training"] == hard["wordings"]
    assert hard["things_not_in_training"] == hard["things"]
    assert hard["text_only_acc"] < usual["text_only_acc"]
    for query in (*train, *heldout):
        assert query.source == SOURCE + (HARD if "-hard-" in query.id else "")
        assert query.group == query.clusters["picture"]
        assert query.clusters.keys() - {"request"} == {"picture", "wording"}
        assert ("request" in query.clusters) == (query.safety is not None)
    assert not {query.group for query in train} & {query.group for query in heldout}


def test_noise_reverses_that_share_of_rankings_only(small: Path, tmp_path: Path) -> None:
    build_data(tmp_path / "noisy", None, sizes=SMALL, noise=0.25)
    for name in ("data.jsonl", "heldout.jsonl"):
        clean, noisy = (read(folder / "preferences" / name) for folder in (small, tmp_path / "noisy"))
        turned = [(one, other) for one, other in zip(clean, noisy, strict=True) if one.responses != other.responses]
        assert len(turned) == round(0.25 * len(clean))
        for one, other in turned:
            assert [replace(response, rank=0) for response in one.responses] == [replace(response, rank=0) for response in other.responses]
            assert {(b, a) for a, b in one.pairs()} == set(other.pairs())
            assert one.ties() == other.ties()
        assert all("0.25 are reversed" in (query.source or "") for query in noisy)
    assert (tmp_path / "noisy/truth/truth.jsonl").read_bytes() == (small / "truth/truth.jsonl").read_bytes()


@pytest.mark.parametrize("noise", [-0.1, 1.5])
def test_noise_outside_zero_to_one_is_refused(noise: float, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--noise"):
        build_data(tmp_path, None, sizes=SMALL, noise=noise)


def test_bundled_data_stays_small(installed: Path) -> None:
    sizes = {path: path.stat().st_size for path in installed.rglob("*") if path.is_file()}
    assert sum(sizes.values()) <= 12_000_000
    assert sum(size for path, size in sizes.items() if path.is_relative_to(installed / "base")) <= 5_000_000


def test_responses_stay_within_plausible_faults(small: Path) -> None:
    assert WORST < 10
    for row in rows_of(small / "preferences" / "data.jsonl"):
        assert all(" and ".join(reason.split(" and ")[:4]) == reason for reason in row["score_reasons"])
