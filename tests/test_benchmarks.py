"""The benchmark measures what it says, and compares only what agrees."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.cases import Case, cases
from benchmarks.report import write_report

ROOT = Path(__file__).parent.parent
OURS, PEER = Case("S", "topk", 32, "sae_platform"), Case("S", "topk", 32, "saelens")


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Steps of ours that take a second, of a peer that take four."""
    for mode in ("steps", "losses"):
        (tmp_path / mode).mkdir()
    for seconds in (0.9, 1.0, 5.0):
        put(tmp_path, OURS, "steps", seconds=seconds, peak_mb=100.0)
    put(tmp_path, PEER, "steps", seconds=4.0, peak_mb=400.0)
    return tmp_path


def put(results: Path, case: Case, mode: str, **found: Any) -> None:
    number = len(list((results / mode).iterdir()))
    (results / mode / f"{number}.json").write_text(json.dumps({"case": case.dump(), **found}))


def row(results: Path, library: str) -> list[str]:
    write_report(results)
    (line,) = [line for line in (results / "table.md").read_text().splitlines() if f"| {library} |" in line]
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.parametrize(("their_loss", "ratio"), [(2.0001, "4.0x"), (2.1, "")])
def test_a_ratio_stands_only_beside_losses_that_agree(their_loss: float, ratio: str, results: Path) -> None:
    put(results, OURS, "losses", losses=[2.0, 1.0])
    put(results, PEER, "losses", losses=[their_loss, 1.0])
    assert row(results, "sae_platform")[4:6] == ["3", "1.000"]
    assert row(results, "saelens")[6] == ratio
    assert (results / "ratios.svg").exists() == bool(ratio)


def test_without_losses_there_is_no_ratio(results: Path) -> None:
    assert row(results, "saelens")[6] == ""
    assert row(results, "saelens")[-1] == "not compared"


def test_every_peer_is_measured_beside_us() -> None:
    every = cases()
    assert len({case.name for case in every}) == len(every)
    ours = {case.group for case in every if case.library == "sae_platform"}
    assert {case.group for case in every} == ours


@pytest.mark.parametrize(("architecture", "l0"), [("topk", 4), ("standard", 16), ("gated", 16), ("jumprelu", 16)])
def test_a_step_of_ours_is_measured(architecture: str, l0: int) -> None:
    case = json.dumps(Case("tiny", architecture, l0, "sae_platform").dump())
    command = [sys.executable, "-m", "benchmarks.worker", case, "losses"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    losses = json.loads(done.stdout)["losses"]
    assert len(losses) == 20
    assert losses[-4] < losses[0]  # the same batch comes round every four steps
