"""Which kind a fault is of, and so whether a run that nobody watches tries again.

- Only faults of infrastructure are worth another try: a signal, memory, the disk, a service or the network.
- Libraries are known by the names of their errors, so that nothing heavy is imported here, and wrap what they met: causes are looked at too.
- Some libraries say what happened in words alone (torch's writer, NCCL, gloo, DVC); those words are listed.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from typing import Literal, get_args

from components.errors import Cancelled, InfrastructureFault, ServiceAway, StageFault, TrainingFault, UserError

FaultKind = Literal["mistake", "training", "infrastructure", "cancelled", "fault"]
KINDS: tuple[FaultKind, ...] = get_args(FaultKind)

SIGNALLED = 128  # what shells and torchrun's wrapper add to the number of a signal that ended a process
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
SERVER_FAILED = 500  # HTTP's codes from here on say that the server, and not the question, is at fault

PEER_LOST = re.compile(
    r"connection (was )?(closed|reset)( by (remote )?peer)?|broken pipe|socket timeout|nccl(remote|system|internal)\s?error"
    r"|\b(gloo|tcpstore)\b.{0,200}(timed out|timeout|refused|failed to recv)|timed out waiting \d+ ?ms",
    re.IGNORECASE | re.DOTALL,
)
WORDS = re.compile(
    "|".join(
        [
            *(re.escape(os.strerror(number)) for number in sorted(FULL_OR_BROKEN | UNREACHABLE)),
            r"PytorchStreamWriter failed|inline_container.{0,80}unexpected pos",  # what torch.save says of a full disk
            r"DefaultCPUAllocator: can't allocate memory|out of memory",
            r"killed by signal: (Bus error|Killed)",
            r"No space left|disk quota",
            r"Could not connect to the endpoint|Connection (refused|reset|aborted)|Temporary failure in name resolution",
        ]
    ),
    re.IGNORECASE | re.DOTALL,
)


def fault_kind(error: BaseException) -> FaultKind:
    """The kind of an error. Whatever is not known to be something else is a "fault", which is not tried again."""
    if isinstance(error, Cancelled | KeyboardInterrupt):
        return "cancelled"
    if isinstance(error, InfrastructureFault | ServiceAway):
        return "infrastructure"
    if isinstance(error, UserError):
        return "mistake"
    if isinstance(error, TrainingFault):
        return "training"
    if isinstance(error, StageFault):
        return "fault"
    if isinstance(error, SystemExit):
        return "infrastructure" if isinstance(error.code, int) and error.code > SIGNALLED else "fault"
    return "infrastructure" if any(_of_infrastructure(one) for one in _chain(error)) else "fault"


def sentence_of(error: BaseException) -> str:
    """What an error says to a person: its own sentence, or its name and what it says."""
    if isinstance(error, UserError | StageFault | Cancelled):
        return str(error)
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def kind_of_words(text: str) -> FaultKind:
    """The kind of a fault of which only what a program wrote is known."""
    return "infrastructure" if WORDS.search(text) or PEER_LOST.search(text) else "fault"


def lost_a_peer(error: BaseException) -> bool:
    """Whether a rank fails because another one is gone: that one's reason says more."""
    return isinstance(error, RuntimeError) and not isinstance(error, StageFault) and PEER_LOST.search(str(error)) is not None


def kind_named(name: object) -> FaultKind:
    """A kind that was written down. What can't be read is a fault."""
    return next((kind for kind in KINDS if kind == name), "fault")


def error_of(kind: FaultKind, sentence: str) -> Exception:
    """The error that carries a kind and a sentence on, for what was noted by another process."""
    kinds: dict[FaultKind, type[Exception]] = {
        "mistake": UserError,
        "training": TrainingFault,
        "infrastructure": InfrastructureFault,
        "cancelled": Cancelled,
        "fault": StageFault,
    }
    return kinds[kind](sentence)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what it was raised from, or while handling; each once."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)


def _of_infrastructure(error: BaseException) -> bool:
    names = {f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__}
    answered = _http_status(error)
    if answered is not None:
        return answered >= SERVER_FAILED
    if isinstance(error, MemoryError | ConnectionError | TimeoutError) or names & CONNECTION_ERRORS:
        return True
    if isinstance(error, OSError):
        return error.errno in FULL_OR_BROKEN | UNREACHABLE
    # Libraries written in another language say in words what Python would say by a class.
    return not isinstance(error, ValueError | TypeError | LookupError) and kind_of_words(str(error)) == "infrastructure"


def _http_status(error: BaseException) -> int | None:
    """The code of an answer that an error stands for: urllib's, httpx's and requests', botocore's."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        code = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        code = getattr(response, "status_code", None) or getattr(error, "code", None)
    return code if isinstance(code, int) and 100 <= code < 600 else None
