"""`sae-platform plugins`: what is installed, and whether it loads."""

from __future__ import annotations

import json
from typing import Any

import click

from sae_platform.cli.table import aligned
from sae_platform.plugins import Plugin, PluginHost


@click.group(name="plugins")
def command() -> None:
    """List installed plugins and check that they load."""


@command.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_plugins(as_json: bool) -> None:
    """List installed plugins without importing any."""
    found = [_described(plugin) for plugin in PluginHost().plugins]
    if as_json:
        click.echo(json.dumps({"plugins": found}, indent=2))
    else:
        columns = ["name", "distribution", "version", "status", "module"]
        click.echo(aligned([columns, *([entry[column] for column in columns] for entry in found)]))


@command.command
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def check(ctx: click.Context, as_json: bool) -> None:
    """Import every plugin and show what it offers. Exit code 1 when one failed or two claim the same kind."""
    host = PluginHost().load()
    checked = [{**_described(plugin), "offers": _offers(plugin), "error": plugin.reason} for plugin in host.plugins]
    contested = host.contested()
    if as_json:
        click.echo(json.dumps({"plugins": checked, "contested": contested}, indent=2))
    else:
        columns = ["name", "distribution", "version", "status", "offers"]
        rows = [[*(entry[column] for column in columns[:-1]), ", ".join(entry["offers"])] for entry in checked]
        click.echo(aligned([columns, *rows]))
        for plugin in host.plugins:
            if plugin.error is not None:
                click.echo(f"\n{plugin} failed to load: {plugin.reason}")
        for sentence in contested:
            click.echo(f"\n{sentence}")
    if contested or any(plugin.error is not None for plugin in host.plugins):
        ctx.exit(1)


def _described(plugin: Plugin) -> dict[str, Any]:
    return {
        "name": plugin.name,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "status": plugin.status,
        "module": plugin.point.module,
    }


def _offers(plugin: Plugin) -> list[str]:
    parts = [f"{config.role}:{config.fixed_kind()}" for config in plugin.offers]
    return parts + [f"releases:{folder}" for folder in plugin.releases]
