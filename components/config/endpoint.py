"""Section `endpoint`: the OpenAI-compatible servers that write texts in place of the local decoder, and how far they may be used."""

from __future__ import annotations

from urllib.parse import urlsplit

from pydantic import Field, field_validator

from components.config.section import Positive, Section

AUTO = "auto"  # as a model's name: that of the weights, as `mmalign model serve-command` names them


class ServerSettings(Section):
    """One server: its address, the name of its model, the environment variable that holds its key, and its prices."""

    url: str
    model: str = Field(min_length=1)
    key: str
    input_price: float = Field(ge=0)
    output_price: float = Field(ge=0)

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("input should be an address such as http://127.0.0.1:8000/v1")
        if parts.username or parts.password:
            raise ValueError("input should hold no user and password: name the environment variable of the key in `key`")
        return value

    @field_validator("key")
    @classmethod
    def _is_a_name(cls, value: str) -> str:
        if value and not value.isidentifier():
            raise ValueError("input should be the name of an environment variable, never the key itself, or empty for none")
        return value


class EndpointSettings(Section):
    """The servers by what they write, and the limits that all of them share."""

    reward: ServerSettings
    base: ServerSettings
    aligned: ServerSettings
    expansion: ServerSettings
    judge: ServerSettings
    concurrency: Positive
    requests_per_minute: int = Field(ge=0)
    tokens_per_minute: int = Field(ge=0)
    retries: int = Field(ge=0)
    timeout_seconds: float = Field(gt=0)
    max_image_mb: float = Field(gt=0)
    image_tokens: Positive
    max_cost: float = Field(ge=0)
