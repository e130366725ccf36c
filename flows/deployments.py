"""Puts the work pool, the deployments of prefect.yaml and the automations on Prefect's server: `mmalign deploy`.

It finds each by its name and updates it, so a second deploy changes nothing.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any
from uuid import UUID

import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate
from prefect.client.schemas.objects import ConcurrencyOptions
from prefect.client.schemas.schedules import construct_schedule
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.utilities.callables import parameter_schema as schema_of
from prefect.variables import Variable

from components.checkout import Checkout
from components.config.settings import Settings
from components.files import read_json, write_json
from components.operations.services.programs import POOL
from components.operations.services.state import DEPLOYED
from components.processes.secrets import state_folder
from flows.automations import make_automations
from flows.parameters import parameter_schema
from flows.pipeline_run import pipeline_run

FILE = Path("prefect.yaml")


def deploy(checkout: Checkout, settings: Settings) -> dict[str, str]:
    """Update the server to prefect.yaml and ops.yaml; returns the deployments' ids by name."""
    described = read_description(checkout, settings)
    with get_client(sync_client=True) as client:
        _make_pool(client)
        for name, value in variables(checkout, settings).items():
            Variable.set(name, value, overwrite=True)
        flow_id = client.create_flow(pipeline_run)
        ids = {str(one["name"]): _deploy_one(client, flow_id, one, described["pull"]) for one in described["deployments"]}
        make_automations(client, ids, settings)
    named = {name: str(deployment) for name, deployment in ids.items()}
    path = state_folder(checkout) / DEPLOYED
    if not path.is_file() or read_json(path) != named:  # the monitor watches scheduled runs since the file's time
        write_json(path, named)
    return named


def read_description(checkout: Checkout, settings: Settings) -> dict[str, Any]:
    """prefect.yaml with the values of its variables, but for the pull steps: Prefect puts those in when a run starts."""
    described: dict[str, Any] = yaml.safe_load((checkout.root / FILE).read_text(encoding="utf-8"))
    filled: dict[str, Any] = _filled(described, variables(checkout, settings))
    return {**filled, "pull": described["pull"]}


def _filled(described: Any, values: dict[str, str]) -> Any:
    if isinstance(described, dict):
        return {key: _filled(value, values) for key, value in described.items()}
    if isinstance(described, list):
        return [_filled(value, values) for value in described]
    if isinstance(described, str):
        for name, value in values.items():
            described = described.replace(f"{{{{ prefect.variables.{name} }}}}", value)
    return described


def variables(checkout: Checkout, settings: Settings) -> dict[str, str]:
    """Prefect's variables that prefect.yaml names."""
    return {
        "mmalign_root": str(checkout.root),
        "mmalign_python": shlex.quote(sys.executable),  # a word of the pull step's command
        "mmalign_cron": settings.deployments.cron,
        "mmalign_poll_cron": settings.deployments.poll_cron,
        "mmalign_timezone": settings.deployments.timezone,
    }


def _make_pool(client: SyncPrefectClient) -> None:
    try:
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
    except ObjectAlreadyExists:
        pass  # the worker creates it too


def _deploy_one(client: SyncPrefectClient, flow_id: UUID, one: dict[str, Any], pull: list[dict[str, Any]]) -> UUID:
    limit = one["concurrency_limit"]
    schedules = [
        DeploymentScheduleCreate(
            schedule=construct_schedule(cron=schedule["cron"], timezone=schedule["timezone"]),
            slug=schedule["slug"],
            active=True,
        )
        for schedule in one.get("schedules", [])
    ]
    _keep_paused(client, one["name"], schedules)
    return client.create_deployment(
        flow_id,
        one["name"],
        schedules=schedules,
        concurrency_limit=limit["limit"],
        concurrency_options=ConcurrencyOptions(collision_strategy=limit["collision_strategy"]),
        parameters=one.get("parameters") or {},
        description=one["description"],
        work_pool_name=one["work_pool"]["name"],
        tags=one["tags"],
        entrypoint=one["entrypoint"],
        path=".",
        pull_steps=pull,
        enforce_parameter_schema=True,
        parameter_openapi_schema=parameter_schema(schema_of(pipeline_run).model_dump_for_openapi()),
    )


def _keep_paused(client: SyncPrefectClient, name: str, schedules: list[DeploymentScheduleCreate]) -> None:
    """Leave a schedule paused that somebody has paused on Prefect's page."""
    try:
        before = client.read_deployment_by_name(f"{pipeline_run.name}/{name}")
    except ObjectNotFound:
        return
    paused = {schedule.slug for schedule in before.schedules if not schedule.active}
    for schedule in schedules:
        schedule.active = schedule.slug not in paused
