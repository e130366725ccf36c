"""`mmalign bench`: benchmarks of the world, the rate of this machine, and the measurements of benchmarks/."""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from components.cli.bench import measurements
from components.cli.bench.measurements import BENCHMARKS, MEASURE, about, benchmarks
from components.cli.stdout import output_on_stderr
from components.operations.environment import enter_checkout


class BenchGroup(TyperGroup):
    """The group's commands; every other name is that of a measurement: `measure` may be left out."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command and the arguments that are left for it."""
        own = bool(args) and (args[0] in self.commands or args[0].startswith("-"))
        return super().resolve_command(ctx, args if own else [MEASURE, *args])


app = typer.Typer(
    cls=BenchGroup,
    help="Run benchmarks on models of the checkout, do the paper's arithmetic, and measure this machine.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.command("rate")(measurements.rate)
app.command(MEASURE, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(measurements.measure)
BUNDLED = "bench/mm_reward_bench.jsonl"  # below data/
AsJson = Annotated[bool, typer.Option("--json", help="print JSON for scripts")]


@app.command("list")
def listed(as_json: AsJson = False) -> None:
    """List the catalogue of benchmarks by dimension, and the measurements of benchmarks/."""
    from components.benches.catalogue import catalogue

    checkout = enter_checkout()
    titles = {name: about(checkout.root / BENCHMARKS / f"{name}.py") for name in benchmarks(checkout)}
    entries = catalogue()
    if as_json:
        print(json.dumps({**entries.model_dump(mode="json"), "measurements": titles}, indent=2))
        return
    for dimension, title in entries.dimensions.items():
        print(title)
        for entry in (entry for entry in entries.benchmarks if entry.dimension == dimension):
            print(
                f"  {entry.name:18} {entry.title:42} {', '.join(entry.tasks)}; judge: {entry.judge}; {'tried' if entry.tried else 'not tried'}"
            )
    width = max((len(name) for name in titles), default=0)
    print("\nMeasurements of benchmarks/\n" + "\n".join(f"  {name:{width}}  {title}" for name, title in titles.items()))


@app.command("aggregate")
def aggregated(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="results before and after alignment, as tests/golden/mm_rlhf_tables.json")],
    model: Annotated[str | None, typer.Option("--model", metavar="NAME", help="the model of the summary; by default the file's")] = None,
    as_json: AsJson = False,
) -> None:
    """Average results by dimension as the paper does, and compare them with the figures that were printed."""
    from components.benches.arithmetic import aggregate
    from components.benches.tables import read_results

    result = aggregate(read_results(file), model)
    if as_json:
        print(json.dumps(result, indent=2))
        return
    print(f"{result['title']}: {result['model']}")
    for name, entry in result["dimensions"].items():
        if entry["before"] is None:
            print(f"  {name:20} needs {', '.join(entry['missing'])}")
            continue
        change = "" if entry["relative"] is None else f"{100 * entry['relative']:+7.1f} %"
        print(
            f"  {name:20} {entry['before']:7.2f} -> {entry['after']:7.2f} {change}  {'lower' if entry['direction'] == 'down' else 'higher'} is better"
        )
    for title, key in (("from rounded means", "from_rounded_means"), ("can't be reproduced from the rows", "not_reproduced")):
        for figure in result[key]:
            print(
                f"  {title}: {figure['where']}, {figure['model']}, {figure['mean']} {figure['figure']}: {figure['printed']}, rows give {figure['computed']}"
            )


@app.command("reward")
def reward(
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="FILE", help="the benchmark's rows: JSON, JSON Lines or Parquet; by default the bundled one"),
    ] = None,
    bench_format: Annotated[str, typer.Option("--format", metavar="FORMAT", help="mm_rlhf, vl_rewardbench or mm_rewardbench")] = "mm_rlhf",
    model: Annotated[
        Path | None, typer.Option("--model", metavar="FOLDER", help="a reward model; by default artifacts/reward/model")
    ] = None,
    media: Annotated[
        Path | None, typer.Option("--media", metavar="FOLDER", help="what media paths are relative to; by default the file's folder")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score a reward model on a benchmark of preferences. A stopped run goes on where it was."""
    here = Path.cwd()
    checkout = enter_checkout()
    from components.benches.reward_run import RewardRequest, bench_reward
    from components.processes.slots.taking import slots_taken

    settings = checkout.settings()
    request = RewardRequest(
        checkout.data / BUNDLED if data is None else here / data,
        bench_format,
        None if media is None else here / media,
        checkout.reward_model if model is None else here / model,
    )
    log = partial(print, file=sys.stderr, flush=True)
    with output_on_stderr(), slots_taken("evaluate", settings, checkout, log):
        target, result = bench_reward(settings, checkout, request, log)
    if as_json:
        print(json.dumps(result, indent=2, sort_keys=True))
        return
    low, high = result["intervals"]["acc"] or (float("nan"), float("nan"))
    print(f"{target}: {result['n_pairs']} pairs of {result['n_queries']} questions")
    print(f"ACC {result['overall']['acc']:.3f} [{low:.3f}, {high:.3f}], ACC+ {result['overall']['acc_plus']:.3f}, {result['ties']} ties")
    for name, entry in result["by_category"].items():
        print(f"  {name:20} ACC {entry['acc']:.3f}  ACC+ {entry['acc_plus']:.3f}  {entry['n_pairs']} pairs")
    for name in ("blank_image", "no_critique", "given_critique", "text_only", "length_only"):
        print(f"  {name:20} {'-' if result[name] is None else format(result[name], '.3f')}")


@app.command("setup")
def setup(as_json: AsJson = False) -> None:
    """Install lmms-eval into an environment of its own, in .mmalign/bench (some 6 GB)."""
    checkout = enter_checkout()
    from components.benches.lmms import VERSION, environment_of, set_up

    fresh = set_up(checkout, partial(print, file=sys.stderr, flush=True))
    folder = environment_of(checkout).relative_to(checkout.root).as_posix()
    values = {"folder": folder, "lmms_eval": VERSION, "installed": fresh}
    print(json.dumps(values, indent=2) if as_json else f"{folder}: lmms-eval {VERSION}{'' if fresh else ', already present'}")


@app.command("policy")
def policy(
    tasks: Annotated[list[str], typer.Argument(metavar="NAME...", help="benchmarks of the catalogue, or tasks of lmms-eval")],
    model: Annotated[Path | None, typer.Option("--model", metavar="FOLDER", help="a policy; by default artifacts/align/model")] = None,
    endpoint: Annotated[
        str | None, typer.Option("--endpoint", metavar="base|aligned", help="the server of section endpoint that serves the policy")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", metavar="N", min=1, help="only the first N rows of each task")] = None,
    include: Annotated[Path | None, typer.Option("--include", metavar="FOLDER", help="task definitions of your own")] = None,
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda or cuda:0; by default what the machine has")] = None,
    as_json: AsJson = False,
) -> None:
    """Run benchmarks on a policy with lmms-eval, which fetches their data. A stopped run goes on with the task at which it was."""
    here, offline = Path.cwd(), os.environ.get("HF_HUB_OFFLINE")
    checkout = enter_checkout()
    from components.benches.policy_run import PolicyRequest, bench_policy
    from components.processes.slots.gpus import has_gpus
    from components.processes.slots.taking import slots_taken

    settings = checkout.settings()
    request = PolicyRequest(
        tasks,
        checkout.policy if model is None else here / model,
        endpoint,
        limit,
        None if include is None else (here / include).resolve(),
        device or ("cuda" if has_gpus() else "cpu"),
    )
    log = partial(print, file=sys.stderr, flush=True)
    # The pipeline never connects to the hub. This command does, unless the person's environment forbids it.
    environment = {"HF_HUB_OFFLINE": offline or "0", "OMP_NUM_THREADS": str(settings.evaluate.threads)}
    with output_on_stderr(), slots_taken("evaluate", settings, checkout, log):
        results = bench_policy(settings, checkout, request, log, environment)
    if as_json:
        print(json.dumps(results, indent=2))
        return
    for result in results:
        metrics = ", ".join(f"{name} {value:.4g}" for name, value in result["metrics"].items())
        print(f"{result['benchmark']['name']}: {metrics} ({result['benchmark']['rows']} rows)")
