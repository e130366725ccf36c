from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from components.alignment.pairs import PairTable, build_pairs, read_scores
from components.alignment.prepared_pairs import check_complete, prepared_pairs
from components.alignment.reference_table import write_log_probs
from components.checkout import Checkout
from components.config.settings import Settings
from components.critique.stage import write_judgements
from components.errors import UserError
from components.preferences.query_table import open_queries
from tests.tiny import queries, save_checkout

LOG_PROBS = [[(-10.0 * number - index, number + index + 1) for index in range(len(q.responses))] for number, q in enumerate(queries())]
FIRST = np.cumsum([0, *(len(query.responses) for query in queries())])


@pytest.fixture
def settings(tmp_path: Path, tiny_base: Path, tiny_media: Path) -> Settings:
    settings = save_checkout(tmp_path, tiny_base, tiny_media)
    judgements = [[("", -1.5 * response.rank + 0.1 * number) for number, response in enumerate(query.responses)] for query in queries()]
    write_judgements(Checkout(tmp_path).critiques("train"), queries(), judgements)
    write_log_probs(Checkout(tmp_path).reference("train"), queries(), LOG_PROBS)
    return settings


def test_mapped_pairs_are_those_that_were_built(settings: Settings, tmp_path: Path) -> None:
    checkout = Checkout(tmp_path)
    training = prepared_pairs(settings, checkout, open_queries(checkout, "train"))
    built = build_pairs(queries(), read_scores(checkout.critiques("train")), settings.alignment, settings.reward.calibration_share)
    for field in fields(PairTable):
        mapped, expected = getattr(training.pairs, field.name), getattr(built, field.name)
        if field.name == "scale":
            assert mapped == expected
        else:
            assert isinstance(mapped, np.memmap)
            assert mapped.dtype == expected.dtype
            assert mapped.tolist() == expected.tolist()
    assert training.log_prob_K.tolist() == [value for row in LOG_PROBS for value, _ in row]
    assert training.tokens_K.tolist() == [tokens for row in LOG_PROBS for _, tokens in row]


def test_pairs_follow_settings_and_tables(settings: Settings, tmp_path: Path) -> None:
    checkout = Checkout(tmp_path)
    table = open_queries(checkout, "train")
    before = prepared_pairs(settings, checkout, table).pairs.beta.tolist()
    other = settings.model_copy(update={"alignment": settings.alignment.model_copy(update={"beta": 0.7})})
    assert min(prepared_pairs(other, checkout, table).pairs.beta) >= 0.7
    write_judgements(checkout.critiques("train"), queries(), [[("", float(r.rank**3)) for r in query.responses] for query in queries()])
    assert prepared_pairs(settings, checkout, table).pairs.beta.tolist() != before


@pytest.mark.parametrize("lacking", [0, len(queries()) - 1])
def test_response_without_reference_is_named(settings: Settings, tmp_path: Path, lacking: int) -> None:
    checkout = Checkout(tmp_path)
    rest = [number for number in range(len(queries())) if number != lacking]
    write_log_probs(checkout.reference("train"), [queries()[number] for number in rest], [LOG_PROBS[number] for number in rest])
    table = open_queries(checkout, "train")
    training = prepared_pairs(settings, checkout, table)
    with pytest.raises(UserError, match=f"query '{queries()[lacking].id}': run the reference stage again"):
        check_complete(training, table, FIRST)


def test_complete_reference_passes(settings: Settings, tmp_path: Path) -> None:
    table = open_queries(Checkout(tmp_path), "train")
    check_complete(prepared_pairs(settings, Checkout(tmp_path), table), table, FIRST)
