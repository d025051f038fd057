"""Things that are written down twice, held together."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import sae_platform
from sae_platform import hookspecs
from sae_platform.cli import COMMANDS
from sae_platform.plugins import HOOKS, RELEASES_HOOK

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PLUGINS = {path.parent.name for path in ROOT.glob("plugins/*/__init__.py")}
HOOKS_SPECIFIED = {name for name in vars(hookspecs) if name.startswith("register_")}


def test_every_plugin_folder_is_in_the_entry_point_table_under_its_own_name():
    table = PROJECT["project"]["entry-points"]["sae_platform"]
    assert set(table.values()) == PLUGINS
    assert all(module == f"sae_platform_{name}" for name, module in table.items())


def test_every_plugin_is_typed_checked_and_layered():
    tool = PROJECT["tool"]
    assert set(tool["mypy"]["packages"]) == {"sae_platform", *PLUGINS}
    assert set(tool["importlinter"]["root_packages"]) == {"sae_platform", *PLUGINS}
    contracts = {contract["name"]: contract for contract in tool["importlinter"]["contracts"]}
    assert set(contracts["The kernel imports no plugin"]["forbidden_modules"]) == PLUGINS
    assert set(contracts["Plugins do not import each other"]["modules"]) == PLUGINS


def test_every_hook_has_a_role_and_a_sentence():
    assert {*HOOKS, RELEASES_HOOK} == HOOKS_SPECIFIED
    assert all(getattr(hookspecs, name).__doc__.endswith(".") for name in HOOKS_SPECIFIED)
    assert len({base.role for base in HOOKS.values()}) == len(HOOKS)


def test_every_public_name_resolves():
    assert sorted(sae_platform.__all__) == sorted(sae_platform._HOME)
    for name in sae_platform.__all__:
        assert getattr(sae_platform, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = sae_platform.nonsense


def test_every_command_has_its_file():
    files = {path.stem for path in ROOT.glob("sae_platform/cli/*.py")}
    assert {module for module, _ in COMMANDS.values()} <= files


@pytest.mark.parametrize("folder", ["sae_platform", "plugins", "tests", "benchmarks"])
def test_no_source_file_is_longer_than_400_lines(folder):
    lengths = {path: len(path.read_text().splitlines()) for path in (ROOT / folder).rglob("*.py")}
    assert {str(path): length for path, length in lengths.items() if length > 400} == {}


def test_every_dependency_is_pinned_to_a_version_it_allows():
    lines = [
        Requirement(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")
    ]
    pinned = {canonicalize_name(line.name): re.fullmatch(r"==([\w.]+)", str(line.specifier)) for line in lines}
    assert all(pinned.values())
    wanted = [*PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"]["dev"]]
    for requirement in map(Requirement, wanted):
        pin = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(pin[1]), f"{requirement} is not what constraints.txt pins"


def test_every_package_that_is_imported_is_a_declared_dependency():
    files = [*ROOT.glob("sae_platform/**/*.py"), *ROOT.glob("plugins/**/*.py")]
    imported = {name.partition(".")[0] for file in files for name in imports(ast.parse(file.read_text()))}
    outside = imported - sys.stdlib_module_names - {"sae_platform", "pytest", *PLUGINS}
    optional = PROJECT["project"]["optional-dependencies"]
    lines = [*PROJECT["project"]["dependencies"], *optional["wandb"], *optional["transformer-lens"]]
    declared = {canonicalize_name(Requirement(line).name) for line in lines}
    homes = packages_distributions()
    assert {name for name in outside if canonicalize_name(homes[name][0]) not in declared} == set()


def imports(tree: ast.Module) -> list[str]:
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    return names + [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
