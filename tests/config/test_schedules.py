"""Schedules are checked where settings are read, as Prefect would check them at `mmalign deploy`."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefect.server.schemas.schedules import CronSchedule
from pydantic import ValidationError

from components.config.schedules import check_cron, check_timezone
from components.config.settings import load_settings
from components.errors import UserError
from tests.settings import copy_settings

GOOD = [
    "0 2 * * *",
    "*/5 * * * *",
    "@daily",
    "@weekly",
    "0 2 L * *",
    "0 2 * * L5",
    "0 2 */2 * 1",
    "0 0 29 2 *",
    "30 2 * * mon-fri",
    "0 2 * * 5#5",
]
BAD = [
    "0 25 * * *",
    "60 * * * *",
    "* * 0 * *",
    "* * * 13 *",
    "0 2 * * 8",
    "0 2 * * 5L",
    "@reboot",
    "@",
    "",
    "0 2 * *",
    "* * * * * *",
    "H 2 * * *",
]
BAD += ["R(0-5) * * * *", "a b c d e", "*/0 * * * *", "0 2 ? ? ?", "# # # # #", "0 2 * * \0"]
NEVER = ["0 2 31 2 *", "0 2 30 2 *", "0 2 31 4,6,9,11 *"]


@pytest.mark.parametrize("cron", GOOD)
def test_schedule_of_prefect_is_accepted(cron: str) -> None:
    assert check_cron(cron) == cron
    assert CronSchedule(cron=cron)


@pytest.mark.parametrize("cron", BAD)
def test_text_that_is_no_schedule_is_refused(cron: str) -> None:
    with pytest.raises(ValueError, match=r"must have five fields|is no schedule: |must name fixed times"):
        check_cron(cron)


@pytest.mark.parametrize("cron", NEVER)
def test_schedule_that_never_comes_is_refused(cron: str) -> None:
    with pytest.raises(ValueError, match="no such day comes"):
        check_cron(cron)


def test_last_friday_in_another_form_names_prefect_form() -> None:
    with pytest.raises(ValueError, match=r"as L5$"):
        check_cron("0 2 * * 5L")


@given(st.lists(st.text("0123456789*/,-?L#@RHa", min_size=1, max_size=4), min_size=5, max_size=5).map(" ".join))
def test_whatever_is_accepted_prefect_plans(cron: str) -> None:
    try:
        check_cron(cron)
    except ValueError:
        return
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    assert list(CronSchedule(cron=cron, timezone="UTC")._get_dates_generator(n=1, start=begin))


@pytest.mark.parametrize("key", ["cron", "poll_cron"])
@pytest.mark.parametrize("cron", ["0 25 * * *", "0 2 31 2 *"])
def test_settings_with_bad_schedule_name_file_and_key(tmp_path: Path, key: str, cron: str) -> None:
    params, ops = copy_settings(tmp_path), tmp_path / "ops.yaml"
    before = {"cron": 'cron: "0 2 * * *"', "poll_cron": 'poll_cron: "*/5 * * * *"'}[key]
    ops.write_text(ops.read_text().replace(f"  {before}", f'  {key}: "{cron}"'))
    with pytest.raises(UserError) as error:
        load_settings(params)
    assert str(error.value).startswith(f"{ops}: 'deployments.{key}' is '{cron}': ")


@pytest.mark.parametrize(
    "zone", ["Mars", "", "Europe", "europe/berlin", "CEST", "posix/Europe/Berlin", "../UTC", "UTC\0", "a" * 300, "Factory"]
)
def test_text_that_is_no_time_zone_is_refused(zone: str) -> None:
    with pytest.raises(ValueError, match="must be an IANA time zone"):
        check_timezone(zone)


def test_every_accepted_time_zone_is_one_of_prefect() -> None:
    for zone in ("UTC", "Europe/Berlin", "Etc/GMT+1", "US/Pacific"):
        assert CronSchedule(cron="0 2 * * *", timezone=check_timezone(zone)).timezone == zone
    with pytest.raises(ValidationError):
        CronSchedule(cron="0 2 * * *", timezone="Mars")
