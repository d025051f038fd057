"""Fixtures that several test files share: a plugin, steps of a run, a saved SAE, an environment with our wheel."""

from __future__ import annotations

import importlib
import os
import shutil
import site
import subprocess
import sys
import textwrap
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest
import torch

from hub_server import Hub, serving
from language_models import model_folder, text_file  # noqa: F401
from sae_platform import registry
from sae_platform.activations import Batch
from sae_platform.hookspecs import GROUP
from sae_platform.linear import LinearSAE
from sae_platform.plugins import installed_plugins
from sae_platform.sae import StepOutput, StepState
from saved import trained
from tape import Step

ROOT = Path(__file__).parent.parent
OUTSIDE_PLUGIN = ROOT / "tests/third_party/sae-platform-hello"

torch.set_num_threads(1)  # small tensors: threads only wait for each other

pytest.register_assert_rewrite("formulas")  # so that its assertions show what they compared

collect_ignore = ["third_party"]  # its tests run in an environment of their own


class Install(Protocol):
    def __call__(self, name: str, source: str, requires: str = "sae-platform") -> Path: ...


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Put a plugin on sys.path with real metadata, as pip would, in a millisecond; gives the folder it is in."""
    site = tmp_path / "site-packages"
    site.mkdir()
    monkeypatch.syspath_prepend(site)
    modules = []

    def _install(name: str, source: str, requires: str = "sae-platform") -> Path:
        module = f"sae_platform_{name}"
        (site / f"{module}.py").write_text(textwrap.dedent(source))
        info = site / f"{module}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: sae-platform-{name}\nVersion: 1.0\nRequires-Dist: {requires}\n"
        )
        (info / "entry_points.txt").write_text(f"[{GROUP}]\n{name} = {module}\n")
        modules.append(module)
        importlib.invalidate_caches()
        installed_plugins.cache_clear()
        return site

    yield _install
    installed_plugins.cache_clear()
    for module in modules:
        sys.modules.pop(module, None)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[Step]:
    """Every step that is taken, as it happens."""
    taken: list[Step] = []
    plain = LinearSAE.step

    def step(sae: LinearSAE, batch: Batch, state: StepState) -> StepOutput:
        taken.append(Step(batch, state))
        return plain(sae, batch, state)

    monkeypatch.setattr(LinearSAE, "step", step)
    return taken


@pytest.fixture
def sae_folder(tmp_path: Path) -> Path:
    """A saved standard SAE."""
    trained().save_model(tmp_path / "an_sae")
    return tmp_path / "an_sae"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for the user's configuration and caches, all empty."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "caches/hub"))
    monkeypatch.delenv(registry.VARIABLE, raising=False)
    return tmp_path


@pytest.fixture
def hub(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """An empty hub."""
    with serving(Hub()) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


class Environment:
    """A virtual environment that holds our wheel and an outside plugin, and borrows everything else."""

    def __init__(self, folder: Path, wheels: list[Path]) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        venv.create(folder, symlinks=True)
        pip = [sys.executable, "-m", "pip", "--python", str(self.bin / "python"), "install", "--quiet"]
        _output([*pip, "--no-deps", "--no-index", "--no-compile", *map(str, wheels)])
        (packages,) = folder.glob("lib/python*/site-packages")
        # A path that stands in a .pth file does not have its own .pth files read: an editable install stays behind.
        (packages / "borrowed.pth").write_text("\n".join(site.getsitepackages()))

    def run(self, program: str, *arguments: str, cwd: Path | None = None) -> str:
        """What a program of this environment prints; an AssertionError with its output when it fails."""
        return _output([str(self.bin / program), *arguments], cwd or self.folder)


def _output(command: list[str], cwd: Path | None = None) -> str:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "SAE_PLATFORM"))}
    done = subprocess.run(command, cwd=cwd, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)} gave {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stdout


def _built(source: Path, folder: Path) -> Path:
    _output([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)])
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our wheel, built from the working tree."""
    return _built(ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def outside_plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the outside plugin, away from this project's settings."""
    return shutil.copytree(OUTSIDE_PLUGIN, tmp_path_factory.mktemp("outside") / OUTSIDE_PLUGIN.name)


@pytest.fixture(scope="session")
def environment(wheel: Path, outside_plugin: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    plugin_wheel = _built(outside_plugin, tmp_path_factory.mktemp("plugin_wheel"))
    return Environment(tmp_path_factory.mktemp("environment"), [wheel, plugin_wheel])
