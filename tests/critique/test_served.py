"""Critiques by a server: which texts are sent, what is scored, what is written here, and what a fault costs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from components.checkout import Checkout
from components.config.settings import Settings, load_settings
from components.critique import stage
from components.critique.task import CritiqueTask, build, critique_context
from components.endpoints.conversations import Conversations
from components.engine.ranks import Ranks
from components.errors import UserError
from components.families.processing import Preprocessor
from components.preferences.record import Query, read_queries, write_queries
from components.reward.model import RewardModel, load_reward_model
from components.reward.scoring import Judged, score
from tests.faulty_endpoint import Endpoint, serving, text_for
from tests.tiny import preprocessor, queries, save_checkout

INSTRUCTION = "Judge."
SENT = 4 + 2 + 3  # responses of the tiny queries that are about pictures or nothing; the others are about videos
VIDEO = 3 + 4


@pytest.fixture
def checkout(tmp_path: Path, tiny_base: Path, tiny_media: Path, writer: RewardModel) -> Checkout:
    save_checkout(
        tmp_path,
        tiny_base,
        tiny_media,
        reward={"instruction": INSTRUCTION},
        critique={"engine": "endpoint", "max_new_tokens": 4, "batch_size": 7, "threads": 1},
    )
    (tmp_path / "artifacts/reward").mkdir(parents=True)
    writer.save(tmp_path / "artifacts/reward/model", tiny_base)
    return Checkout(tmp_path)


def with_server(checkout: Checkout, url: str, **changes: Any) -> Settings:
    settings = checkout.settings()
    server = settings.endpoint.reward.model_copy(update={"url": url})
    return settings.model_copy(update={"endpoint": settings.endpoint.model_copy(update={"reward": server, **changes})})


def request_text(query: Query, response: str) -> str:
    return f"{INSTRUCTION}\nQuestion: {query.prompt}\nAnswer:\n{response}"


def test_server_is_refused_for_a_model_without_critiques(checkout: Checkout, tiny_base: Path, writer: RewardModel) -> None:
    RewardModel(writer.model, writer.head, "none").save(checkout.reward_model, tiny_base)
    with pytest.raises(UserError, match=r"a server has none to write: set critique\.engine to local"):
        build(checkout.settings(), checkout)


def test_server_writes_and_the_trees_score(checkout: Checkout, capfd: pytest.CaptureFixture[str]) -> None:
    with serving(Endpoint(["none", "crowded", "failed"])) as endpoint:
        result = stage.run(with_server(checkout, endpoint.url), checkout)
        assert sorted(set(endpoint.answered)) == sorted(request_text(q, r.text) for q in queries()[:3] for r in q.responses)
        assert endpoint.requests == SENT + 2, "equal texts of the two splits are asked for once"
        names = {body["model"] for body in endpoint.bodies}
    assert [name.startswith("mmalign-") for name in names] == [True]
    task = build(checkout.settings(), checkout)[0]
    judgements = task.judgements()
    reward = load_reward_model(checkout.reward_model)
    live = preprocessor(checkout.root / "data/base", checkout.preferences)
    for query, row in zip(task.queries[:3], judgements, strict=False):
        texts = [text_for(request_text(query, response.text)) for response in query.responses]
        assert [text for text, _ in row] == texts
        judged = [Judged(query, response.text, text) for response, text in zip(query.responses, texts, strict=True)]
        assert [value for _, value in row] == pytest.approx(score(reward, live, judged, instruction=INSTRUCTION), abs=1e-5)
    assert all(not text.startswith("On ") for row in judgements[3:] for text, _ in row), "the local decoder writes about videos"
    assert (result.times["train.served"], result.times["train.local_video"]) == (SENT, VIDEO)
    assert result.times["train.requests"] == SENT + 2
    assert f"{SENT} texts by {endpoint.url}, {VIDEO} here ({VIDEO} video)" in capfd.readouterr().out


def test_text_with_a_special_token_is_written_here(checkout: Checkout) -> None:
    row = queries()[2]
    first, *others = row.responses
    row = replace(row, responses=(replace(first, text="Yes.<|im_end|>"), *others))
    for split in ("train", "heldout"):
        write_queries(checkout.queries(split), [row])
    with serving(Endpoint()) as endpoint:
        result = stage.run(with_server(checkout, endpoint.url), checkout)
        assert endpoint.answered == [request_text(row, others[0].text), request_text(row, others[1].text)] or len(endpoint.answered) == 2
        assert not any("<|im_end|>" in prompt for prompt in endpoint.answered)
    assert result.times["train.local_special_token"] == 1


def test_refused_text_is_written_here_and_counted(checkout: Checkout) -> None:
    refused = request_text(queries()[1], queries()[1].responses[0].text)
    with serving(Endpoint(fault_of=lambda prompt: "refused" if prompt == refused else "none")) as endpoint:
        result = stage.run(with_server(checkout, endpoint.url), checkout)
    assert result.times["train.local_refused"] == 1
    assert all(len(row) == len(q.responses) for row, q in zip(build(checkout.settings(), checkout)[0].judgements(), queries(), strict=True))


def test_stage_that_stopped_asks_for_the_rest_alone(checkout: Checkout) -> None:
    with serving(Endpoint(["none"] * 5 + ["failed"] * 50)) as endpoint:
        with pytest.raises(Exception, match=r"more than endpoint\.retries"):
            stage.run(with_server(checkout, endpoint.url, retries=0, concurrency=1), checkout)
        assert len(endpoint.answered) == 5
        endpoint.faults.clear()
        stage.run(with_server(checkout, endpoint.url, retries=0, concurrency=1), checkout)
        assert len(endpoint.answered) == SENT
        requests = endpoint.requests
        stage.run(with_server(checkout, endpoint.url), checkout)
        assert endpoint.requests == requests == SENT + 1


def test_rank_reads_the_texts_and_asks_for_none(checkout: Checkout) -> None:
    with serving(Endpoint()) as endpoint:
        settings = with_server(checkout, endpoint.url)
        launcher, _ = build(settings, checkout)
        launcher.prepare([0, 1])
        requests = endpoint.requests
        rank, _ = build(settings, checkout)
        (row,) = rank.compute([1], Ranks())
        assert endpoint.requests == requests == 6
    assert [text for text, _ in row] == [text_for(request_text(queries()[1], response.text)) for response in queries()[1].responses]


@pytest.mark.parametrize(
    ("section", "changes", "same"),
    [
        ("critique", {"engine": "local"}, False),
        ("endpoint", {"reward": {"model": "another"}}, False),
        ("endpoint", {"reward": {"url": "http://10.0.0.1/v1", "key": "SOME_KEY"}}, True),
        ("endpoint", {"concurrency": 3, "retries": 1, "base": {"model": "another"}}, True),
    ],
)
def test_judgements_depend_on_engine_and_name(checkout: Checkout, section: str, changes: dict[str, Any], same: bool) -> None:
    settings = load_settings(checkout.params)
    values = settings.model_dump(mode="json", by_alias=True)
    for name, value in changes.items():
        if isinstance(value, dict):
            values[section][name].update(value)
        else:
            values[section][name] = value
    changed = type(settings).model_validate(values)
    assert (critique_context(changed, checkout.reward_model) == critique_context(settings, checkout.reward_model)) is same


def test_another_reward_model_is_judged_here(checkout: Checkout, tmp_path: Path) -> None:
    task: CritiqueTask = build(checkout.settings(), checkout)[0]
    assert task.served is not None
    elsewhere = Checkout(tmp_path / "elsewhere")
    from components.critique.task import critique_writer

    assert critique_writer(task.preprocessor, checkout.reward_model, checkout.settings(), elsewhere) is None
    assert read_queries(checkout.queries("train")) == task.queries


def test_template_that_opens_a_thought_is_refused(tiny_preprocessor: Preprocessor) -> None:
    conversations = Conversations(tiny_preprocessor, "weights", 1)
    query = queries()[2]
    assert conversations.judgement(query, "Yes.", INSTRUCTION, 4).messages[-1].text == request_text(query, "Yes.")
    template = tiny_preprocessor.processor.chat_template
    tiny_preprocessor.processor.chat_template = template.replace(
        "<|im_start|>assistant\n{% endif %}", "<|im_start|>assistant\n<think>{% endif %}"
    )
    try:
        with pytest.raises(UserError, match=r"set critique\.engine to local"):
            Conversations(tiny_preprocessor, "weights", 1).judgement(query, "Yes.", INSTRUCTION, 4)
    finally:
        tiny_preprocessor.processor.chat_template = template
