from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner, Result

from sae_platform import PlatformError
from sae_platform.cli import main
from sae_platform.errors import Interrupted

TOY = """
    from typing import Literal
    from sae_platform import SAEConfig, hookimpl
    class Config(SAEConfig):
        architecture: Literal["toy"] = "toy"
    @hookimpl
    def register_architectures():
        return [Config]
"""


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def test_list_shows_every_plugin_in_aligned_columns_and_imports_none(install):
    install("toy", TOY)
    result = run("plugins", "list")
    assert result.exit_code == 0
    header, *rows = result.output.splitlines()
    assert header.split() == ["name", "distribution", "version", "status", "module"]
    assert ["toy", "sae-platform-toy", "1.0", "found", "sae_platform_toy"] in [row.split() for row in rows]
    assert {row.index("sae_platform_") for row in rows} == {header.index("module")}
    assert "sae_platform_toy" not in sys.modules


def test_list_gives_json(install):
    install("toy", TOY)
    (entry,) = [e for e in json.loads(run("plugins", "list", "--json").output)["plugins"] if e["name"] == "toy"]
    assert entry == {
        "name": "toy",
        "distribution": "sae-platform-toy",
        "version": "1.0",
        "status": "found",
        "module": "sae_platform_toy",
    }


def test_list_shows_what_is_switched_off(install, monkeypatch):
    install("toy", TOY)
    monkeypatch.setenv("SAE_PLATFORM_DISABLE", "toy")
    assert "disabled" in run("plugins", "list").output
    assert run("plugins", "check").exit_code == 0


def test_check_shows_what_each_plugin_offers(install):
    install("toy", TOY)
    result = run("plugins", "check")
    assert result.exit_code == 0
    assert ["toy", "sae-platform-toy", "1.0", "loaded", "architecture:toy"] in [
        row.split() for row in result.output.splitlines()
    ]


def test_check_fails_and_says_why_when_a_plugin_is_broken(install):
    install("toy", TOY)
    install("broken", "import no_such_module")
    result = run("plugins", "check")
    assert result.exit_code == 1
    assert "architecture:toy" in result.output
    assert (
        "broken (sae-platform-broken 1.0) failed to load: ModuleNotFoundError: No module named 'no_such_module'"
        in result.output
    )


def test_check_fails_and_names_the_fix_when_a_kind_is_contested(install):
    install("toy", TOY)
    install("rival", TOY)
    result = run("plugins", "check")
    assert result.exit_code == 1
    assert "Disable one, for example SAE_PLATFORM_DISABLE=sae-platform-toy." in result.output


def test_check_gives_the_same_as_json(install):
    install("toy", TOY)
    install("rival", TOY)
    install("broken", "raise RuntimeError('not today')")
    result = run("plugins", "check", "--json")
    assert result.exit_code == 1
    report = json.loads(result.output)
    plugins = {plugin["name"]: plugin for plugin in report["plugins"]}
    assert plugins["toy"]["offers"] == ["architecture:toy"]
    assert plugins["toy"]["error"] is None
    assert (plugins["broken"]["status"], plugins["broken"]["error"]) == ("failed", "RuntimeError: not today")
    assert "'toy' is offered by rival" in report["contested"][0]


def test_an_unknown_command_is_answered_with_the_nearest_one():
    result = run("plugin")
    assert result.exit_code == 2
    assert "There is no command 'plugin'. Did you mean 'plugins'? Commands: bench, config, " in result.stderr


def test_help_lists_every_command_of_the_table():
    assert {"train", "evaluate", "runs", "config", "plugins"} <= set(run("--help").output.split())


def test_the_version_is_shown():
    assert run("--version").output == "sae-platform, version 0.1.0\n"


@pytest.fixture
def broken_command(monkeypatch):
    def _broken(error: BaseException) -> None:
        def fail(*_: object) -> None:
            raise error

        monkeypatch.setattr("sae_platform.cli.plugins.PluginHost", fail)

    return _broken


def test_a_platform_error_is_shown_as_its_message_with_exit_code_2(broken_command):
    broken_command(PlatformError("This cannot be done."))
    result = run("plugins", "list")
    assert (result.exit_code, result.stderr) == (2, "Error: This cannot be done.\n")


def test_a_platform_error_keeps_its_traceback_when_debugging(broken_command, monkeypatch):
    monkeypatch.setenv("SAE_PLATFORM_DEBUG", "1")
    error = PlatformError("This cannot be done.")
    broken_command(error)
    assert run("plugins", "list").exception is error


def test_a_stopped_run_exits_with_the_code_of_its_signal(broken_command):
    broken_command(Interrupted("Stopped after step 3.", 15))
    result = run("plugins", "list")
    assert (result.exit_code, result.stderr) == (143, "Error: Stopped after step 3.\n")


def test_an_interrupt_exits_with_130_and_no_traceback(broken_command):
    broken_command(KeyboardInterrupt())
    result = run("plugins", "list")
    assert result.exit_code == 130
    assert "Traceback" not in result.output


def test_a_reader_that_went_away_is_met_quietly():
    reader, writer = os.pipe()
    os.close(reader)
    program = "from sae_platform.cli import main; main(['plugins', 'list'])"
    done = subprocess.run([sys.executable, "-c", program], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert done.stderr == ""
    assert done.returncode == 1
