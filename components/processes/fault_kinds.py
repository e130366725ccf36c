"""Sorts errors into kinds, and so decides whether a scheduled run retries.

- A run retries only faults of infrastructure: a signal, memory, the disk, a service or the network.
- The names of error classes stand for libraries, so this module imports nothing heavy. Libraries wrap errors, so causes count too.
- Some libraries report a fault only in their text (torch's writer, NCCL, gloo, DVC). The patterns below match these texts.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from typing import Literal, get_args

from components.errors import Cancelled, InfrastructureFault, ServiceAway, StageFault, TrainingFault, UserError
from components.processes.machine_errors import described, is_refused

FaultKind = Literal["mistake", "training", "infrastructure", "cancelled", "fault"]
KINDS: tuple[FaultKind, ...] = get_args(FaultKind)

SIGNALLED = 128  # shells and torchrun's wrapper add this to the number of the signal that ended a process
FULL_OR_BROKEN = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ENOMEM, errno.EROFS, errno.ESTALE})
UNREACHABLE = frozenset(
    {errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE, errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH}
)
CONNECTION_ERRORS = frozenset(
    {
        "requests.exceptions.ConnectionError",
        "requests.exceptions.Timeout",
        "requests.exceptions.ChunkedEncodingError",
        "urllib3.exceptions.HTTPError",
        "urllib.error.URLError",
        "http.client.IncompleteRead",
        "socket.gaierror",
        "httpx.TransportError",
        "botocore.exceptions.HTTPClientError",
        "botocore.exceptions.ConnectionError",
        "sqlalchemy.exc.OperationalError",
        "sqlalchemy.exc.InterfaceError",
        "psycopg2.OperationalError",
        "torch.OutOfMemoryError",
        "torch.cuda.OutOfMemoryError",
        "torch.distributed.DistNetworkError",
        "torch.distributed.DistStoreError",
    }
)
SERVER_FAILED = 500  # from this HTTP status on, the server is at fault and not the request

PEER_LOST = re.compile(
    r"connection (was )?(closed|reset)( by (remote )?peer)?|broken pipe|socket timeout|nccl(remote|system|internal)\s?error"
    r"|\b(gloo|tcpstore)\b.{0,200}(timed out|timeout|refused|failed to recv)|timed out waiting \d+ ?ms",
    re.IGNORECASE | re.DOTALL,
)
WORDS = re.compile(
    "|".join(
        [
            *(re.escape(os.strerror(number)) for number in sorted(FULL_OR_BROKEN | UNREACHABLE)),
            r"PytorchStreamWriter failed|inline_container.{0,80}unexpected pos",  # torch.save on a full disk
            r"DefaultCPUAllocator: can't allocate memory|out of memory",
            r"killed by signal: (Bus error|Killed)",
            r"No space left|disk quota|database or disk is full",
            r"Could not connect to the endpoint|Connection (refused|reset|aborted)|Temporary failure in name resolution",
        ]
    ),
    re.IGNORECASE | re.DOTALL,
)


def fault_kind(error: BaseException) -> FaultKind:
    """The kind of an error. Every other error is a "fault", which no run retries."""
    if isinstance(error, Cancelled | KeyboardInterrupt):
        return "cancelled"
    if isinstance(error, InfrastructureFault | ServiceAway):
        return "infrastructure"
    if isinstance(error, UserError) or is_refused(error):
        return "mistake"
    if isinstance(error, TrainingFault):
        return "training"
    if isinstance(error, StageFault):
        return "fault"
    if isinstance(error, SystemExit):
        return "infrastructure" if isinstance(error.code, int) and error.code > SIGNALLED else "fault"
    return "infrastructure" if any(_of_infrastructure(one) for one in _chain(error)) else "fault"


def sentence_of(error: BaseException) -> str:
    """The message of an error for a person: its own sentence, one about the machine, or its class name and text."""
    if isinstance(error, UserError | StageFault | Cancelled):
        return str(error)
    return described(error) or f"{type(error).__name__}: {' '.join(str(error).split())}"


def kind_of_words(text: str) -> FaultKind:
    """The kind of a fault by the text that a program wrote."""
    return "infrastructure" if WORDS.search(text) or PEER_LOST.search(text) else "fault"


def lost_a_peer(error: BaseException) -> bool:
    """Whether a rank failed because another rank ended. The reason of the other rank says more."""
    return isinstance(error, RuntimeError) and not isinstance(error, StageFault) and PEER_LOST.search(str(error)) is not None


def kind_named(name: object) -> FaultKind:
    """The kind that a file names. An unknown name is a fault."""
    return next((kind for kind in KINDS if kind == name), "fault")


def error_of(kind: FaultKind, sentence: str) -> Exception:
    """The error for a kind and a sentence that another process wrote."""
    kinds: dict[FaultKind, type[Exception]] = {
        "mistake": UserError,
        "training": TrainingFault,
        "infrastructure": InfrastructureFault,
        "cancelled": Cancelled,
        "fault": StageFault,
    }
    return kinds[kind](sentence)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and its causes and contexts, each once."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)


def _of_infrastructure(error: BaseException) -> bool:
    names = {f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__}
    status = _http_status(error)
    if status is not None:
        return status >= SERVER_FAILED
    if isinstance(error, MemoryError | ConnectionError | TimeoutError) or names & CONNECTION_ERRORS:
        return True
    if isinstance(error, OSError):
        return error.errno in FULL_OR_BROKEN | UNREACHABLE
    # Libraries in another language report in text what Python reports by a class.
    return not isinstance(error, ValueError | TypeError | LookupError) and kind_of_words(str(error)) == "infrastructure"


def _http_status(error: BaseException) -> int | None:
    """The HTTP status in an error of urllib, httpx, requests or botocore."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        code = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        code = getattr(response, "status_code", None) or getattr(error, "code", None)
    return code if isinstance(code, int) and 100 <= code < 600 else None
