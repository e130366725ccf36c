"""The command line of a vLLM server for one of the checkout's models, with the settings under which its texts are the local ones."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import urlsplit

from components.checkout import Checkout
from components.config.endpoint import AUTO, ServerSettings
from components.config.settings import Settings
from components.endpoints.client import served_name
from components.errors import UserError
from components.families.digests import model_digest

LOOPBACK = ("127.0.0.1", "localhost", "::1")
ANY_ADDRESS = "0.0.0.0"  # noqa: S104 -- for clients on other machines
ROLES = ("reward", "base", "aligned")


def role_of(folder: Path, settings: Settings, checkout: Checkout) -> str:
    """Which server of section `endpoint` serves the model in `folder`. Raises UserError for a folder that is none of the checkout's models."""
    models = {"reward": checkout.reward_model, "aligned": checkout.policy, "base": checkout.root / settings.model.base}
    for role, path in models.items():
        if path.resolve() == folder.resolve():
            return role
    names = ", ".join(f"{path} ({role})" for role, path in models.items())
    raise UserError(f"{folder} is none of this checkout's models, {names}: name its server with --as")


def serve_command(folder: Path, role: str, settings: Settings) -> tuple[dict[str, str], list[str]]:
    """Environment and arguments of `vllm serve` for the model in `folder`. `$NAME` in the environment is left to the shell.

    - A prompt is as long as validation allows, and its answer and a critique of that come on top.
    - One picture a prompt and no video: videos are written about here.
    - Prefixes are cached, so prompt and picture are read once for all responses of a query.

    Raises UserError for a folder that a server can't open.
    """
    if (folder / "adapter_config.json").is_file():
        raise UserError(f"{folder} holds adapters and no whole model: set model.lora.merge to true and train again, then serve that")
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} holds no config.json: name the folder of a model, such as artifacts/reward/model")
    server: ServerSettings = getattr(settings.endpoint, role)
    address = urlsplit(server.url)
    lengths = settings.model.max_length + settings.evaluate.max_new_tokens + settings.critique.max_new_tokens
    arguments = [
        "vllm",
        "serve",
        str(folder.resolve()),
        "--served-model-name",
        served_name(model_digest(folder)) if server.model == AUTO else server.model,
        "--host",
        str(address.hostname) if address.hostname in LOOPBACK else ANY_ADDRESS,
        "--port",
        str(address.port or (443 if address.scheme == "https" else 80)),
        "--dtype",
        "bfloat16" if settings.training.precision == "bf16" else "float32",
        "--max-model-len",
        str(lengths),
        "--limit-mm-per-prompt",
        json.dumps({"image": 1, "video": 0}),
        "--enable-prefix-caching",
        "--max-num-seqs",
        str(settings.endpoint.concurrency),
    ]
    return ({"VLLM_API_KEY": f"${server.key}"} if server.key else {}), arguments
