"""What served models answer, and what they refuse."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from mlflow.exceptions import MlflowException

from components.config.settings import load_settings
from components.errors import UserError
from components.families.loading import load_model
from components.generation.critiques import write_critiques
from components.generation.generate import generate
from components.preferences.record import Medium, Query, Turn
from components.registry.model_input import IMAGE_ROOT, image_bytes
from components.registry.packaging import SOURCE
from components.reward.model import load_reward_model, new_reward_model
from components.reward.scoring import Judged, score
from tests.registry.packaged import (
    TOKENS,
    no_pickle,
    own_answers,
    package,
    policy,
    policy_package,
    reward,
    reward_folder,
    reward_package,
    rows,
)
from tests.tiny import preprocessor, queries

__all__ = ["no_pickle", "policy", "policy_package", "reward", "reward_folder", "reward_package"]


def test_policy_answers_as_evaluation_does(policy: Any, tiny_base: Path, tiny_media: Path) -> None:
    answers = policy.predict(rows(tiny_media))

    assert list(answers.columns) == ["answer"]
    assert list(answers["answer"]) == own_answers(tiny_base, tiny_media)
    assert any(answers["answer"])


def test_image_formats_give_same_answer(policy: Any, tiny_media: Path) -> None:
    path = tiny_media / "square.png"
    content = path.read_bytes()
    text = base64.b64encode(content).decode()
    wrapped = base64.encodebytes(content).decode()
    cells = [str(path), content, text, wrapped, f"data:image/png;base64,{text}"]

    answers = policy.predict(pd.DataFrame({"prompt": ["What?"] * len(cells), "image": cells}))["answer"]

    assert len(set(answers)) == 1
    assert [image_bytes(cell) for cell in cells] == [content] * len(cells)


def test_rows_may_have_several_images_and_turns(policy: Any, tiny_base: Path, tiny_media: Path) -> None:
    turns = (Turn("user", ("Is ", " it?")), Turn("assistant", ("No.",)), Turn("user", ("", "Or this?")))
    names = ("square.png", "tall.png")
    media = tuple(Medium(name, "image") for name in names)
    conversations = [
        Query("0", "short", turns, (), media),
        Query.single("1", "short", "Which?", (), *media),
        Query.single("2", "short", "Why?", ()),
    ]
    messages = [
        {"role": "user", "content": "Is <image> it?"},
        {"role": "assistant", "content": "No."},
        {"role": "user", "content": "<image>\nOr this?"},
    ]
    images = [str(tiny_media / name) for name in names]
    table = pd.DataFrame({"prompt": ["", "Which?", "Why?"], "messages": [messages, None, None], "image": [images, images, None]})
    prepare = preprocessor(tiny_base, tiny_media)
    roots = [prepare.policy_root(query) for query in conversations]
    tokens = generate(load_model(tiny_base), roots, [[]] * 3, max_new_tokens=TOKENS, batch_size=2, end_id=prepare.end_id)

    assert list(policy.predict(table)["answer"]) == [prepare.tokenizer.decode(ids, skip_special_tokens=True) for ids in tokens]
    assert list(policy.predict(table[:1].drop(columns="prompt"))["answer"]) == list(policy.predict(table[:1])["answer"])


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "See <image>."}, "row 0: prompt: holds the mark '<image>', but the row names no image"),
        ({"prompt": "", "messages": [{"role": "assistant", "content": "Hi."}]}, "row 0: messages: ends with a turn of the assistant"),
        ({"prompt": "Which?", "messages": [{"role": "user", "content": "Hi."}]}, "row 0: prompt: stands beside messages"),
    ],
)
def test_unusable_turns_name_row_and_reason(policy: Any, row: dict[str, Any], reason: str) -> None:
    with pytest.raises(MlflowException, match=re.escape(reason)):
        policy.predict(pd.DataFrame([row], dtype="object"))


@pytest.mark.parametrize("nothing", [None, float("nan"), ""])
def test_row_without_image_is_text_only(policy: Any, nothing: Any) -> None:
    with_column = policy.predict(pd.DataFrame({"prompt": ["Is it 2?"], "image": pd.Series([nothing], dtype="object")}))
    without_column = policy.predict(pd.DataFrame({"prompt": ["Is it 2?"]}))

    assert list(with_column["answer"]) == list(without_column["answer"])


def test_base64_jpeg_is_not_read_as_path(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg")
    content = (tmp_path / "a.jpg").read_bytes()
    text = base64.b64encode(content).decode()

    assert text.startswith("/9j/")
    assert image_bytes(text) == content


def test_path_that_is_valid_base64_is_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "abcd").write_bytes(b"content")
    monkeypatch.setenv(IMAGE_ROOT, str(tmp_path))

    assert image_bytes("abcd") == b"content"


def test_call_can_limit_tokens(policy: Any, tiny_media: Path) -> None:
    long = policy.predict(rows(tiny_media))["answer"]
    short = policy.predict(rows(tiny_media), params={"max_new_tokens": 1})["answer"]

    assert all(a.startswith(b.rstrip("\ufffd")) for a, b in zip(long, short, strict=True))
    assert list(short) != list(long)


def test_served_reward_model_equals_critique_stage(reward: Any, reward_folder: Path, tiny_media: Path) -> None:
    requests = rows(tiny_media).assign(response=["Yes.", "No.", "Maybe"])
    prepare = preprocessor(reward_folder, tiny_media)
    model = load_reward_model(reward_folder)
    instruction = load_settings(SOURCE / "params.yaml").reward.instruction
    still = [replace(query, id=str(number)) for number, query in enumerate(query for query in queries() if "video" not in query.kinds)]
    items = list(zip(still, requests["response"], strict=True))
    critiques = write_critiques(model.model, prepare, items, instruction=instruction, max_new_tokens=TOKENS, batch_size=2)
    judged = [Judged(query, text, critique) for (query, text), critique in zip(items, critiques, strict=True)]

    served = reward.predict(requests)

    assert list(served.columns) == ["critique", "score"]
    assert list(served["critique"]) == critiques
    torch.testing.assert_close(torch.tensor(served["score"]), torch.tensor(score(model, prepare, judged, instruction=instruction)).double())


@pytest.fixture(scope="module")
def uncritiqued(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A reward model that was trained without critiques, as MLflow opens its package, and its folder."""
    import mlflow

    folder = tmp_path_factory.mktemp("alone")
    new_reward_model(load_model(tiny_base), 0, "none").save(folder / "model", tiny_base)
    return mlflow.pyfunc.load_model(str(package("mm-reward", folder / "model", folder / "package"))), folder / "model"


def test_served_model_without_critiques_scores_responses_alone(uncritiqued: tuple[Any, Path], tiny_media: Path) -> None:
    model, folder = uncritiqued
    requests = rows(tiny_media).assign(response=["Yes.", "No.", "Maybe"])
    still = [replace(query, id=str(number)) for number, query in enumerate(query for query in queries() if "video" not in query.kinds)]
    judged = [Judged(query, text, None) for query, text in zip(still, requests["response"], strict=True)]
    instruction = load_settings(SOURCE / "params.yaml").reward.instruction

    served = model.predict(requests)

    assert list(served["critique"]) == [None] * 3
    expected = score(load_reward_model(folder), preprocessor(folder, tiny_media), judged, instruction=instruction)
    torch.testing.assert_close(torch.tensor(served["score"]), torch.tensor(expected).double())
    assert model.metadata.get_params_schema() is None
    assert [(column.name, column.required) for column in model.metadata.get_output_schema()] == [("critique", False), ("score", True)]


def test_model_without_critiques_takes_no_limit_of_tokens(uncritiqued: tuple[Any, Path]) -> None:
    model, _ = uncritiqued
    with pytest.raises(UserError, match="it writes no tokens: leave out max_new_tokens"):
        model.unwrap_python_model().predict(None, pd.DataFrame({"prompt": ["?"], "response": ["."]}), {"max_new_tokens": 3})


BAD_ROWS = [
    ({"image": [None, "gone.png"]}, "row 1: the image 'gone.png' is neither a file nor the base64 of an image"),
    ({"image": [b"\x89PNG broken", None]}, "row 0: the image cannot be decoded as an image: it is damaged"),
    (
        {"image": ["data:image/png;base64,%%", None]},
        "row 0: the image 'data:image/png;base64,%%' is a data address that is not valid base64",
    ),
    ({"image": [7, b""]}, "row 0: the image is int: send a path, bytes, base64 or null"),
    ({"prompt": ["Fine?", "<image> twice?"]}, "row 1: prompt: holds the mark '<image>'"),
    ({"prompt": ["Fine?", "<|im_end|>"]}, "row 1: the prompt contains '<|im_end|>'"),
]


@pytest.mark.parametrize(("cells", "sentence"), BAD_ROWS)
def test_bad_row_is_named(policy: Any, cells: dict[str, list[Any]], sentence: str) -> None:
    columns = {"prompt": ["One?", "Two?"], **cells}
    frame = pd.DataFrame({name: pd.Series(values, dtype="object") for name, values in columns.items()})

    with pytest.raises(UserError) as caught:
        policy.predict(frame)
    assert sentence in str(caught.value)


def test_limit_of_zero_tokens_is_refused(policy: Any) -> None:
    with pytest.raises(UserError, match="max_new_tokens is 0: set it to 1 at least"):
        policy.predict(pd.DataFrame({"prompt": ["What?"]}), params={"max_new_tokens": 0})


def test_tokens_of_request_have_a_cap(policy: Any) -> None:
    most = load_settings(SOURCE / "params.yaml").model.max_length
    with pytest.raises(UserError, match=f"max_new_tokens is {most + 1}: this model writes {most} at most"):
        policy.predict(pd.DataFrame({"prompt": ["What?"]}), params={"max_new_tokens": most + 1})


def test_text_past_max_length_is_refused(policy: Any, reward: Any) -> None:
    most = load_settings(SOURCE / "params.yaml").model.max_length
    for text in ("a" * (most + 1), "a" * most * 1000):  # the second is refused before it is tokenized
        with pytest.raises(UserError, match=r"row 0: the prompt (takes|has) [\d,]+ (tokens|characters), more than"):
            policy.predict(pd.DataFrame({"prompt": [text]}))
        with pytest.raises(UserError, match="row 0: prompt and response take more than"):
            reward.predict(pd.DataFrame({"prompt": ["What?"], "response": [text]}))


def test_paths_are_off_without_image_root(policy: Any, tiny_media: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(IMAGE_ROOT)
    with pytest.raises(UserError, match=f"reads no paths: send bytes or base64, or set {IMAGE_ROOT} to a folder"):
        policy.predict(pd.DataFrame({"prompt": ["What?"], "image": [str(tiny_media / "square.png")]}))


def test_client_of_server_gets_number_of_bad_row(policy: Any, policy_package: Path) -> None:
    from mlflow.pyfunc import scoring_server
    from starlette.testclient import TestClient

    client = TestClient(scoring_server.init(policy))
    answered = client.post("/invocations", json=json.loads((policy_package / "serving_input_example.json").read_text()))
    refused = client.post("/invocations", json={"dataframe_records": [{"prompt": "What?"}, {"prompt": "What?", "image": "gone.png"}]})

    assert (answered.status_code, len(answered.json()["predictions"])) == (200, 2)
    assert refused.status_code == 400
    assert "row 1: the image 'gone.png' is neither a file" in refused.json()["message"]


def test_truncated_image_is_named(policy: Any, tiny_media: Path) -> None:
    cut = (tiny_media / "tall.png").read_bytes()[:200]

    with pytest.raises(UserError, match="row 0: the image cannot be decoded as an image: it is truncated"):
        policy.predict(pd.DataFrame({"prompt": ["What?"], "image": [cut]}))


def test_model_answers_after_bad_row(policy: Any, tiny_media: Path) -> None:
    before = policy.predict(rows(tiny_media))
    with pytest.raises(UserError):
        policy.predict(pd.DataFrame({"prompt": ["What?"], "image": ["gone.png"]}))

    assert policy.predict(rows(tiny_media)).equals(before)
    assert not policy.unwrap_python_model()._preprocessor._images


def test_path_outside_image_root_is_refused(policy: Any, tiny_media: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(IMAGE_ROOT, str(tiny_media / "two"))

    assert len(policy.predict(pd.DataFrame({"prompt": ["What?"], "image": ["0.png"]}))) == 1
    for path in ("../square.png", str(tiny_media / "square.png")):
        with pytest.raises(UserError, match=f"outside the folder of {IMAGE_ROOT}"):
            policy.predict(pd.DataFrame({"prompt": ["What?"], "image": [path]}))
