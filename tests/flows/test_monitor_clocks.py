"""The monitor where clocks change: due times are those by which Prefect plans, and a clock that is set repeats no notice."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prefect.server.schemas.schedules import CronSchedule

from components.checkout import Checkout
from flows.flow_runs import server_client
from flows.monitor import Monitor
from tests.flows.test_monitor import ID, Clock, Prefect, checkout, fixture_prefect, notices, run_of

__all__ = ["fixture_prefect"]

CRONS = ["0 2 */2 * 1", "30 2 * * *", "@daily", "0 2 L * *", "0 2 * * L5", "0 2 * * *", "0 3 * * *"]
CHANGES = {"spring": datetime(2027, 3, 28, tzinfo=UTC), "autumn": datetime(2027, 10, 31, tzinfo=UTC)}  # of Europe/Berlin


def due_times(cron: str, begin: datetime, days: int) -> list[datetime]:
    """As Prefect's server plans."""
    schedule = CronSchedule(cron=cron, timezone="Europe/Berlin")
    planned = schedule._get_dates_generator(n=100, start=begin, end=begin + timedelta(days=days))
    return [datetime.fromisoformat(one.isoformat()).astimezone(UTC) for one in planned]


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("cron", CRONS)
def test_changed_clocks_cause_no_false_notice(cron: str, change: str, tmp_path: Path, prefect: tuple[Prefect, int]) -> None:
    server, port = prefect
    begin = CHANGES[change] - timedelta(days=2)
    server.planned = [run_of(begin + timedelta(days=60), None, "Scheduled")]
    dues = due_times(cron, begin, 4)
    server.runs = [run_of(due, due + timedelta(seconds=40), "Completed") for due in dues]
    root = checkout(tmp_path, port, deployed=begin - timedelta(days=9))
    clock = Clock(begin)
    monitor, since, late = Monitor(Checkout(root), clock), begin - timedelta(days=9), timedelta(minutes=30)
    with server_client(Checkout(root)) as client:
        for half_hours in range(2 * 24 * 2 - 4, 2 * 24 * 2 + 14):  # the night of the change
            clock.now = begin + timedelta(minutes=30 * half_hours + 1)
            assert monitor._missed(client, ID, since, late) is None, clock.now
        for due in [due for due in dues if abs(due - CHANGES[change]) < timedelta(hours=6)]:
            server.runs = [run for run in server.runs if run.expected_start_time != due] + [run_of(due, None, "Late")]
            clock.now = due + timedelta(minutes=31)
            notice = monitor._missed(client, ID, since, late)
            assert notice is not None
            assert notice.details["due"] == due.isoformat()


def test_clock_set_back_and_forth_repeats_no_notice(tmp_path: Path, prefect: tuple[Prefect, int]) -> None:
    server, port = prefect
    begin = datetime(2026, 11, 25, tzinfo=UTC)
    server.runs = [run_of(begin + timedelta(hours=hour), None, "Late") for hour in range(2)]
    root = checkout(tmp_path, port, deployed=begin - timedelta(days=1))
    clock = Clock(begin)
    for hours in (0, 1, 0, 1):
        clock.now = begin + timedelta(hours=hours, minutes=31)
        Monitor(Checkout(root), clock).check()
    assert [entry["facts"]["due"] for entry in notices(root)] == [(begin + timedelta(hours=hour)).isoformat() for hour in range(2)]
