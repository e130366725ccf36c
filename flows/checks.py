"""The check of deployments for `mmalign doctor`."""

from __future__ import annotations

from prefect.client.schemas.schedules import CronSchedule

from components.checkout import Checkout
from components.errors import ServiceAway, UserError
from components.operations.doctor.findings import Finding, NotChecked, ok, problem, settings_of, warning
from components.operations.doctor.team import NO_SERVICES
from components.operations.services.state import DEPLOYED, read_addresses
from components.processes.secrets import state_folder
from flows.flow_runs import server_client


def deployments(checkout: Checkout) -> Finding:
    """The server has the deployments of `mmalign deploy`, and the nightly schedule is active."""
    if read_addresses(checkout) is None:
        return ok(NO_SERVICES)
    if not (state_folder(checkout) / DEPLOYED).is_file():
        return warning("nothing is deployed, so no run starts on a schedule", "mmalign deploy")
    try:
        with server_client(checkout) as client:
            deployed = {one.name: one for one in client.read_deployments()}
            pools = client.read_work_pools()
    except ServiceAway as error:
        return problem(str(error).partition(":")[0], "mmalign up --detach")
    except UserError as error:
        raise NotChecked("the passwords can't be read") from error
    missing = [name for name in ("nightly", "on-new-data", "on-demand") if name not in deployed]
    if missing:
        return problem(f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not on the server", "mmalign deploy")
    paused = {one.name for one in deployed.values() if one.paused} | {pool.name for pool in pools if pool.is_paused}
    paused |= {one.name for one in deployed.values() if one.schedules and not any(schedule.active for schedule in one.schedules)}
    if paused:
        return warning(f"{', '.join(sorted(paused))} paused: no run starts on its schedule", "resume it on Prefect's page")
    settings = settings_of(checkout).deployments
    crons = [one.schedule for one in deployed["nightly"].schedules if isinstance(one.schedule, CronSchedule)]
    if not any((one.cron, one.timezone) == (settings.cron, settings.timezone) for one in crons):
        return warning("the nightly schedule on the server differs from ops.yaml", "mmalign deploy")
    return ok(f"{', '.join(sorted(deployed))}; nightly at '{settings.cron}' ({settings.timezone})")
