from __future__ import annotations

import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    """The files of the wheel, without its metadata."""
    return {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    archive = zipfile.ZipFile(wheel)
    (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
    return Parser().parsestr(archive.read(name).decode())


def test_the_wheel_holds_the_kernel_the_plugins_and_the_registry_and_nothing_else(names):
    sources = {
        path.relative_to(base).as_posix()
        for base, tree in [(ROOT, ROOT / "sae_platform"), (ROOT / "plugins", ROOT / "plugins")]
        for path in tree.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    releases = {f"sae_platform/_registry/{file.name}" for file in (ROOT / "registry").iterdir()}
    assert names == sources | releases
    assert "sae_platform/py.typed" in names


def test_the_wheel_holds_the_plugins_of_the_entry_point_table(names, wheel):
    archive = zipfile.ZipFile(wheel)
    (table,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
    modules = {line.split(" = ")[1] for line in archive.read(table).decode().splitlines() if " = sae_platform_" in line}
    assert {name.split("/")[0] for name in names} == {"sae_platform", *modules}


def test_the_wheel_names_its_licence_and_the_pythons_it_is_for(metadata, wheel):
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Requires-Python"] == ">=3.11"
    (licence,) = [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith("licenses/LICENSE")]
    assert licence


def test_an_installed_wheel_answers_help_and_lists_its_plugins(environment):
    assert "plugins" in environment.run("sae-platform", "--help")
    assert "sae_platform_topk" in environment.run("sae-platform", "plugins", "list")
