"""Checks schedules where settings are read, by the parser that Prefect plans runs with.

Prefect ships that parser, croniter, inside its own package. Importing it there would load all of Prefect (seconds), so its file is loaded by its path.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from datetime import datetime
from functools import cache
from pathlib import Path
from types import ModuleType
from zoneinfo import available_timezones

FIELDS = "must have five fields (minute, hour, day of month, month, day of week) or be a name such as @daily"
BOUNDS = "minute (0-59), hour (0-23), day of month (1-31), month (1-12), day of week (0-7), such as 0 2 * * 1-5, or a name such as @daily"
RANDOM = re.compile(
    r"(^|,)[rh](\(|/|,|$)", re.IGNORECASE
)  # croniter's own words for random and hashed times: due at other times at each look
LAST_DAY = re.compile(r"([0-7a-z]+)L", re.IGNORECASE)  # Quartz's way to write the last Friday
NO_ZONES = {"Factory", "localtime"}  # files of the zone database that name no zone


@cache
def _croniter() -> ModuleType:
    package = importlib.util.find_spec("prefect")
    assert package is not None, "Prefect is a dependency"
    assert package.origin is not None, "Prefect is a package with code"
    folder = Path(package.origin).parent / "_vendor" / "croniter"
    name = "mmalign_croniter"
    spec = importlib.util.spec_from_file_location(name, folder / "__init__.py", submodule_search_locations=[str(folder)])
    assert spec is not None, "a Python file has a specification"
    assert spec.loader is not None, "a Python file has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def check_cron(value: str) -> str:
    """`value`, a schedule that Prefect can plan. Raises ValueError for any other, and for one that never comes."""
    fields = value.split()
    if len(fields) != 5 and not value.startswith("@"):
        raise ValueError(FIELDS)
    if any(RANDOM.search(field) for field in fields):
        raise ValueError("must name fixed times: R and H are not supported")
    parser = _croniter()
    try:
        parser.croniter(value, datetime.now()).get_next(datetime)  # noqa: DTZ005 -- Prefect plans by local times without a zone
    except parser.CroniterBadDateError as error:
        raise ValueError(
            "no such day comes: no run would ever start; to have no scheduled runs, pause the schedule on Prefect's page"
        ) from error
    except (ValueError, KeyError, IndexError, AttributeError) as error:  # its own errors are ValueErrors; odd texts end in the others
        last = LAST_DAY.fullmatch(fields[-1])
        hint = f"write the last such day of a month as L{last[1]}" if last is not None else BOUNDS
        raise ValueError(f"is no schedule: {hint}") from error
    return value


def check_timezone(value: str) -> str:
    """`value`, the name of a time zone. Raises ValueError for any other."""
    if value not in available_timezones() - NO_ZONES:
        raise ValueError("must be an IANA time zone, such as Europe/Berlin")
    return value
