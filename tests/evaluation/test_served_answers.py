"""Answers of policies, and critiques in evaluation, by servers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from components.checkout import Checkout
from components.config.settings import Settings
from components.engine.inference import Launch, run_tasks
from components.evaluation.stage import served_times
from components.evaluation.tasks import AnswerTask, JudgementTask, policy_tasks, reward_tasks
from components.families.loading import load_model
from components.reward.model import new_reward_model
from components.stages import INFERENCE_TASKS
from tests.faulty_endpoint import Endpoint, serving, text_for
from tests.tiny import queries, save_checkout


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with serving(Endpoint()) as server:
        yield server


@pytest.fixture
def checkout(tmp_path: Path, tiny_base: Path, tiny_media: Path) -> Checkout:
    save_checkout(
        tmp_path,
        tiny_base,
        tiny_media,
        critique={"engine": "endpoint", "max_new_tokens": 3},
        evaluate={"engine": "endpoint", "max_new_tokens": 3, "threads": 1},
    )
    return Checkout(tmp_path)


def served(checkout: Checkout, endpoint: Endpoint) -> Settings:
    settings = checkout.settings()
    names = ("reward", "base", "aligned")
    servers = {name: getattr(settings.endpoint, name).model_copy(update={"url": endpoint.url, "model": name}) for name in names}
    return settings.model_copy(update={"endpoint": settings.endpoint.model_copy(update=servers)})


def test_server_answers_pictures_and_texts_and_not_videos(checkout: Checkout, endpoint: Endpoint) -> None:
    settings = served(checkout, endpoint)
    arguments = {"base": "data/base", "champion": "data/base"}
    base, champion, log_probs = policy_tasks(settings, checkout, arguments)
    assert isinstance(base, AnswerTask)
    assert isinstance(champion, AnswerTask)
    assert champion.served is None, "no server holds an earlier policy"
    run_tasks([base, champion], Launch(INFERENCE_TASKS["policy_answers"], "evaluate", arguments, "policies"), settings, checkout)
    answers, local = base.results(), champion.results()
    assert answers[:3] == [[text_for(query.prompt), True] for query in queries()[:3]]
    assert answers[3:] == local[3:]
    assert not set(base.keys) & set(champion.keys), "an answer of a server is no answer of the local decoder"
    assert {body["model"] for body in endpoint.bodies} == {"base"}
    assert served_times([base, champion, log_probs]) == {
        "answers_of_the_base_policy.served": 3,
        "answers_of_the_base_policy.local_video": 2,
        "answers_of_the_base_policy.requests": 3,
        "answers_of_the_base_policy.cost": 0,
    }


def test_critiques_in_evaluation_follow_critique_engine(checkout: Checkout, endpoint: Endpoint, tiny_base: Path) -> None:
    new_reward_model(load_model(tiny_base), seed=0).save(checkout.reward_model, tiny_base)
    settings = served(checkout, endpoint)
    arguments = {"folder": "artifacts/reward/model", "answers": [(0, "It is."), (3, "It moves.")]}
    blank, *_, shown = reward_tasks(settings, checkout, arguments)
    assert isinstance(blank, JudgementTask)
    assert isinstance(shown, JudgementTask)
    run_tasks([shown], Launch(INFERENCE_TASKS["reward_scores"], "evaluate", arguments, "reward"), settings, checkout)
    (prompt,) = endpoint.answered
    assert prompt.endswith("Question: Is it 0?\nAnswer:\nIt is.")
    assert shown.judgements()[0][0] == text_for(prompt)
    assert blank.served is not None
    request = blank.served.request_of(blank.rows[0])
    real = shown.served.request_of((shown.rows[0][0], blank.rows[0][1])) if shown.served is not None else ""
    assert not isinstance(request, str)
    assert not isinstance(real, str)
    assert request.messages[-1].text == real.messages[-1].text
    assert request.key("reward") != real.key("reward"), "a gray picture is another picture"
    assert request.messages[-1].pictures[0].url() != real.messages[-1].pictures[0].url()
