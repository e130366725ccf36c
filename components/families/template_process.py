"""A program of its own: renders a chat template once under limits of CPU time, memory and size, and tells by its exit code whether it could.

A template is a program of the checkpoint's, which may loop for ever or write without end. This process imports nothing of the package, so that
it starts in a tenth of a second. Standard input has the template, the conversation and the variables as JSON.
"""

from __future__ import annotations

import json
import resource
import sys
from typing import Any, NoReturn

CPU_SECONDS, MEMORY_BYTES, CHARACTERS = 5, 2**30, 2**20
TOO_LARGE, TOO_MUCH_MEMORY = 3, 4  # exit codes


def main() -> None:
    """Render; 0 also for a template that refuses the conversation or fails, which the caller's own rendering reports."""
    for limit, most in ((resource.RLIMIT_CPU, CPU_SECONDS), (resource.RLIMIT_AS, MEMORY_BYTES), (resource.RLIMIT_CORE, 0)):
        hard = resource.getrlimit(limit)[1]
        resource.setrlimit(limit, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
    request = json.load(sys.stdin)
    try:
        rendered = _environment().from_string(request["template"]).render(**request["variables"])
    except (MemoryError, RecursionError):
        sys.exit(TOO_MUCH_MEMORY)
    except Exception:  # noqa: BLE001 -- a template may fail in any way
        return
    if len(rendered) > CHARACTERS:
        sys.exit(TOO_LARGE)


def _environment() -> Any:
    """The environment in which transformers renders templates (transformers.utils.chat_template_utils)."""
    from datetime import datetime

    from jinja2 import TemplateError, nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        tags = {"generation"}  # noqa: RUF012 -- jinja2's own form

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True)).set_lineno(line)

    def refuse(message: str) -> NoReturn:
        raise TemplateError(message)

    def tojson(value: Any, *, ensure_ascii: bool = False, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, **options)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    environment.filters["tojson"] = tojson
    environment.globals |= {"raise_exception": refuse, "strftime_now": lambda form: datetime.now().strftime(form)}  # noqa: DTZ005 -- as theirs
    return environment


if __name__ == "__main__":
    main()
