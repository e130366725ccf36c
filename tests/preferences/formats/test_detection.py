import pytest

from components.errors import UserError
from components.preferences.formats.detection import FORMATS, AmbiguousFormat, detect, format_named, seems
from tests.preferences.formats.samples import AMBIGUOUS, SAMPLES, Rows

EACH = [(name, number) for name, samples in SAMPLES.items() for number in range(len(samples))]


@pytest.mark.parametrize(("name", "number"), EACH)
def test_sample_is_taken_for_no_other_format(name: str, number: int) -> None:
    assert seems(SAMPLES[name][number]) == (name,)
    assert detect(SAMPLES[name][number], "rows.jsonl").name == name


@pytest.mark.parametrize(("rows", "names"), AMBIGUOUS)
def test_rows_that_fit_two_formats_are_asked_about(rows: Rows, names: tuple[str, str]) -> None:
    with pytest.raises(AmbiguousFormat, match="--format") as caught:
        detect(rows, "rows.jsonl")
    assert caught.value.candidates == names
    assert all(name in str(caught.value) for name in names)


def test_unknown_rows_name_fields_and_nearest_format() -> None:
    with pytest.raises(UserError, match=r"rows.jsonl is in none .* hold prompt, score, and the nearest format is \w+ \(.* missing"):
        detect([{"prompt": "What?", "score": 1}], "rows.jsonl")


def test_unpaired_and_plain_conversations_are_no_preferences() -> None:
    for row in ({"prompt": "a", "completion": "b", "label": True}, {"messages": [{"role": "user", "content": "Hi."}]}, {"text": "prose"}):
        with pytest.raises(UserError, match="in none of the formats"):
            detect([row], "rows.jsonl")


def test_few_rows_of_another_format_do_not_decide() -> None:
    rows = [*SAMPLES["trl"][0] * 3, *SAMPLES["swift"][1]]
    assert detect(rows, "rows.jsonl").name == "trl"


def test_half_of_each_is_asked_about() -> None:
    with pytest.raises(AmbiguousFormat):
        detect([*SAMPLES["trl"][1], *SAMPLES["swift"][1]], "rows.jsonl")


def test_no_rows_and_wrong_names_are_refused() -> None:
    with pytest.raises(UserError, match="no readable row"):
        detect([], "rows.jsonl")
    with pytest.raises(UserError, match=f"none of auto, hf, {', '.join(FORMATS)}"):
        format_named("dpo")
