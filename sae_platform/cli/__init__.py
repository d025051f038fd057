"""The command line: a table of commands, each imported only when it is used."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

import click

from sae_platform.errors import PlatformError, choices, nearest

DEBUG_VARIABLE = "SAE_PLATFORM_DEBUG"

COMMANDS = {  # module under sae_platform.cli, whose `command` it is, and the line in --help
    "train": ("train", "Train a sparse autoencoder from a run file."),
    "evaluate": ("evaluate", "Measure a trained SAE on held-out data."),
    "runs": ("runs", "List runs and show what became of them."),
    "config": ("config", "Check a run file and show what it resolves to."),
    "registry": ("registry", "Find released SAEs."),
    "convert": ("convert", "Write an SAE in the format of another project."),
    "bench": ("bench", "Measure how fast this machine is."),
    "plugins": ("plugins", "List installed plugins and check that they load."),
}


class LazyGroup(click.Group):
    """Commands by name from `COMMANDS`; a PlatformError from any of them becomes its message and its exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"{__name__}.{COMMANDS[cmd_name][0]}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not ctx.resilient_parsing:
            ctx.fail(f"There is no command {args[0]!r}.{nearest(args[0], COMMANDS)} Commands: {choices(COMMANDS)}.")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except PlatformError as error:
            if os.environ.get(DEBUG_VARIABLE) == "1":
                raise
            click.echo(f"Error: {error}", err=True)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            ctx.exit(130)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="sae-platform", prog_name="sae-platform")
def main() -> None:
    """Train and evaluate sparse autoencoders."""
