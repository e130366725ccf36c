"""Renders a checkpoint's chat template, in a process with limits first: one that would take too long or too much is never rendered here."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from functools import lru_cache
from typing import Any

from components.errors import UserError
from components.families import template_process
from components.families.template_process import CHARACTERS, CPU_SECONDS, MEMORY_BYTES, TOO_LARGE, TOO_MUCH_MEMORY

REMEMBERED = 1024  # conversations that were rendered under limits
WALL_SECONDS = 300  # in which CPU_SECONDS pass on a busy machine too


class TemplateLimitError(UserError):
    """A chat template takes more time, memory or text than any conversation needs."""


def render(processor: Any, messages: list[dict[str, Any]], **options: Any) -> str:
    """`apply_chat_template` without tokenization. Raises TemplateLimitError beyond a limit, and what the template raises."""
    template = options.get("chat_template", getattr(processor, "chat_template", None))
    if isinstance(template, dict):
        template = template.get("default")
    if isinstance(template, str):
        variables = {"tools": None, "documents": None, **processor.tokenizer.special_tokens_map, **options, "messages": messages}
        excess = _excess(template, json.dumps(variables, default=str))
        if excess is not None:
            raise TemplateLimitError(
                f"the chat template of {getattr(processor.tokenizer, 'name_or_path', 'the checkpoint')} {excess} for one conversation: "
                "don't trust this checkpoint, or write its template anew"
            )
    return str(processor.apply_chat_template(messages, tokenize=False, **options))


@lru_cache(REMEMBERED)
def _excess(template: str, variables: str) -> str | None:
    """Which limit a rendering exceeds, in words; None for one within all of them."""
    request = json.dumps({"template": template, "variables": json.loads(variables)})
    command = [sys.executable, "-I", template_process.__file__]
    try:
        ended = subprocess.run(command, input=request.encode(), capture_output=True, timeout=WALL_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return f"takes more than {WALL_SECONDS} s"
    if ended.returncode == 0:
        return None
    if ended.returncode == TOO_LARGE:
        return f"writes more than {CHARACTERS:,} characters"
    if ended.returncode in {-signal.SIGXCPU, -signal.SIGKILL}:
        return f"takes more than {CPU_SECONDS} s"
    if ended.returncode in {TOO_MUCH_MEMORY, -signal.SIGSEGV}:
        return f"takes more than {MEMORY_BYTES / 1e9:.1f} GB of memory"
    words = ended.stderr.decode(errors="replace").strip().splitlines()
    raise RuntimeError(f"the process that renders chat templates ended with {ended.returncode}: {words[-1] if words else ''}")
