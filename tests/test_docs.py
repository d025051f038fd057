"""Every block of the README that can run is run, in the order a reader meets them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hub_server import Hub, serving
from sae_platform import read_run
from saved import trained

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
SETUP = ("make demo", "pip install")


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """A hub with the SAEs that the README loads."""
    trained().save_model(tmp_path / "sae")
    with serving(Hub()) as hub:
        hub.add("jbloom/GPT2-Small-SAEs-Reformatted", tmp_path / "sae", "blocks.8.hook_resid_pre")
        hub.add("user/repository", tmp_path / "sae", "path/to/sae")
        yield hub


def test_the_readme_runs(tmp_path: Path, hub: Hub) -> None:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HF_ENDPOINT": hub.url,
        "HF_HUB_CACHE": str(tmp_path / "cache"),
    }
    ran = 0
    for language, text in re.findall(r"^```(\w+)\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL):
        if language == "toml":
            (tmp_path / "run.toml").write_text(text)
            continue
        if language == "sh":
            assert text.startswith(SETUP), text
            continue
        program = [sys.executable, "-c", text] if language == "python" else ["bash", "-euc", text]
        done = subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"
        ran += 1
    assert ran >= 8
    assert any("blocks.8.hook_resid_pre" in line for line in hub.asked)


def test_the_way_from_saelens_runs(tmp_path: Path, hub: Hub) -> None:
    text = (ROOT / "docs/from-saelens.md").read_text()
    blocks = re.findall(r"^```(\w+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert {language for language, _ in blocks} == {"python"}
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(tmp_path / "cache")}
    program = [sys.executable, "-c", "\n".join(block for _, block in blocks)]
    done = subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "blocks.1.hook_resid_post/cfg.json" in hub.repositories["username/my-saes"]


@pytest.mark.parametrize("file", sorted(ROOT.glob("docs/runs/*.toml")), ids=lambda file: file.stem)
def test_a_run_file_of_the_docs_describes_the_run_that_the_readme_reports(file: Path) -> None:
    run = read_run(file)
    assert file.stem in (run.sae.architecture, run.source.kind)
    assert f"`{file.name}`" in README.read_text()
    assert f"`{file.name}` | {run.training.tokens:,} |" in README.read_text() or file.stem == run.source.kind
