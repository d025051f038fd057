"""`sae-platform runs`: what is in a folder of runs, and what became of one."""

from __future__ import annotations

import json
import math
import textwrap
import time
import tomllib
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from sae_platform.cli.table import aligned
from sae_platform.errors import PlatformError
from sae_platform.runs import RunDirectory, find_run, list_runs

SCORES = {"l0": "l0", "explained_variance": "explained variance", "ce_loss_score": "ce score"}

root_option = click.option(
    "--runs",
    "root",
    default="runs",
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of runs.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(name="runs")
def command() -> None:
    """List runs and show what became of them."""


@command.command(name="list")
@root_option
@json_option
def list_all(root: Path, as_json: bool) -> None:
    """List the runs in a folder. Scores are those of the evaluation, before it those that training saw last."""
    summaries = [_summary(run) for run in list_runs(root)]
    if as_json:
        _print_json({"runs": summaries})
        return
    if not summaries:
        click.echo(f"There are no runs in {root}. `sae-platform train` starts one.")
        return
    rows = [
        [
            summary["name"],
            summary["state"],
            summary["architecture"] or "-",
            f"{summary['step']:,}",
            f"{summary['tokens']:,}",
            *("-" if summary[score] is None else f"{summary[score]:.4g}" for score in SCORES),
            _age(summary["started"]),
        ]
        for summary in summaries
    ]
    click.echo(aligned([["name", "state", "architecture", "step", "tokens", *SCORES.values(), "age"], *rows]))
    for summary in summaries:
        if summary["error"]:
            click.echo(f"{summary['name']}: {summary['error']}", err=True)


@command.command
@click.argument("name")
@root_option
@json_option
def show(name: str, root: Path, as_json: bool) -> None:
    """Show one run: how far it is, its run file, metrics, evaluation and checkpoints, and how to load its SAE."""
    run = find_run(root, name)
    status, latest, evaluation = run.status(), run.latest(), run.evaluation()
    checkpoints, sae = run.checkpoints(), _usable_sae(run)
    if as_json:
        _print_json(
            {
                "name": run.name,
                "path": str(run.path),
                "status": status.model_dump(),
                "run": _run_file(run),
                "latest": latest,
                "evaluation": evaluation,
                "checkpoints": [str(path) for path in checkpoints],
                "sae": str(sae) if sae else None,
            }
        )
        return
    started = datetime.fromtimestamp(status.started).astimezone().isoformat(sep=" ", timespec="seconds")
    about = {
        "state": f"{status.state}  {status.message}",
        "step": f"{status.step:,}",
        "tokens": f"{status.tokens:,}" + (f" of {status.total_tokens:,}" if status.total_tokens else ""),
        "started": f"{started}, {_age(status.started)} ago",
    }
    load = f"from sae_platform import SAE\nsae = SAE.load_from_disk({json.dumps(str(sae))})"
    _section(run.name, aligned(list(about.items())))
    _section(str(run.run_toml), run.run_toml.read_text().strip())
    _section("Last metrics of training", _numbers(latest) or "none yet")
    _section("Evaluation", _numbers(evaluation or {}) or f"none; this measures it: sae-platform evaluate {run.path}")
    _section("Checkpoints", "\n".join(map(str, checkpoints)) or "none yet")
    _section("Load it", load if sae else "There is no SAE yet.")


def _summary(run: RunDirectory) -> dict[str, Any]:
    """A row of the list; a run that cannot be read is a row too, with the reason."""
    status = run.status()
    scores: dict[str, object] = {}
    architecture, error = None, status.message if status.state in ("failed", "stopped") else ""
    try:
        architecture = _run_file(run).get("sae", {}).get("architecture")
        scores = {**_by_last_word(run.latest()), **_by_last_word(run.evaluation() or {})}
    except PlatformError as problem:
        error = str(problem)
    return {
        "name": run.name,
        "path": str(run.path),
        "state": status.state,
        "architecture": architecture,
        "step": status.step,
        "tokens": status.tokens,
        **{score: scores.get(score) for score in SCORES},
        "started": status.started,
        "error": error or None,
    }


def _run_file(run: RunDirectory) -> dict[str, Any]:
    try:
        return tomllib.loads(run.run_toml.read_text())
    except (OSError, ValueError) as error:
        raise PlatformError(f"Cannot read {run.run_toml}: {error}") from error


def _usable_sae(run: RunDirectory) -> Path | None:
    """The folder of the finished SAE, before that of the newest checkpoint's."""
    folders = [run.sae_path, *(path / "sae" for path in reversed(run.checkpoints()))]
    return next((folder for folder in folders if folder.is_dir()), None)


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """What is in nested tables, under names joined by slashes."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}/")
        else:
            yield prefix + name, value


def _by_last_word(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The leaves under the last part of their names: `metrics/l0` is `l0`."""
    return {name.rpartition("/")[2]: value for name, value in _leaves(tree)}


def _numbers(tree: Mapping[str, Any]) -> str:
    leaves = [(name, f"{value:.6g}" if isinstance(value, float) else str(value)) for name, value in _leaves(tree)]
    return aligned(leaves) if leaves else ""


def _section(title: str, text: str) -> None:
    click.echo(f"{title}\n{textwrap.indent(text, '  ')}\n")


def _age(since: float) -> str:
    if not since:
        return "-"
    seconds = max(time.time() - since, 0)
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f}{unit}"
    return f"{seconds:.0f}s"


def _print_json(content: dict[str, Any]) -> None:
    """JSON has no word for NaN or infinity: they become null."""
    click.echo(json.dumps(_finite(content), indent=2, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
