"""The benchmark measures what it says, and compares only what agrees."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.cases import Case, Stage, cases, stages
from benchmarks.report import write_report
from benchmarks.stages import WIDE_BUFFER, WIDE_ROWS

ROOT = Path(__file__).parent.parent
OURS, PEER = Case("S", "topk", 32, "sae_platform"), Case("S", "topk", 32, "saelens")


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Steps of ours that take a second, of a peer that take four."""
    for seconds in (0.9, 1.0, 5.0):
        put(tmp_path, OURS, "steps", seconds=seconds, peak_mb=100.0)
    put(tmp_path, PEER, "steps", seconds=4.0, peak_mb=400.0)
    return tmp_path


def put(results: Path, case: Case | Stage, mode: str, **found: Any) -> None:
    (results / mode).mkdir(exist_ok=True)
    number = len(list((results / mode).iterdir()))
    (results / mode / f"{number}.json").write_text(json.dumps({"case": case.dump(), **found}))


def row(results: Path, library: str) -> list[str]:
    write_report(results, "cpu")
    (line,) = [line for line in (results / "table.md").read_text().splitlines() if f"| {library} |" in line]
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.parametrize(("their_loss", "ratio"), [(2.0001, "4.0x"), (2.1, "")])
def test_a_ratio_stands_only_beside_losses_that_agree(their_loss: float, ratio: str, results: Path) -> None:
    put(results, OURS.parity_twin(), "losses", losses=[2.0, 1.0])
    put(results, PEER.parity_twin(), "losses", losses=[their_loss, 1.0])
    assert row(results, "sae_platform")[4:6] == ["3", "1.000"]
    assert row(results, "saelens")[7] == ratio
    assert (results / "ratios.svg").exists() == bool(ratio)


def test_without_losses_there_is_no_ratio(results: Path) -> None:
    assert row(results, "saelens")[7] == ""
    assert row(results, "saelens")[-1] == "not compared"


@pytest.mark.parametrize(("their_check", "ratio"), [(0.8, "2.0x"), (0.1, "")])
def test_a_stage_is_compared_when_it_did_the_same_work(their_check: float, ratio: str, tmp_path: Path) -> None:
    put(tmp_path, Stage("end_to_end", "sae_platform"), "end_to_end", tokens=100, seconds=1.0, check=0.8, peak_mb=1.0)
    put(tmp_path, Stage("end_to_end", "saelens"), "end_to_end", tokens=100, seconds=2.0, check=their_check, peak_mb=1.0)
    assert row(tmp_path, "saelens")[5] == ratio


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_peer_is_measured_beside_us(device: str) -> None:
    every = [*cases(device), *stages(device)]
    assert len({(case.mode, case.name) for case in every}) == len(every)
    assert {case.ours() for case in every} <= set(every)


@pytest.mark.parametrize(("architecture", "l0"), [("topk", 4), ("standard", 16), ("gated", 16), ("jumprelu", 16)])
def test_a_step_of_ours_is_measured(architecture: str, l0: int) -> None:
    losses = measured(Case("tiny", architecture, l0, "sae_platform"), "losses")["losses"]
    assert len(losses) == 20
    assert losses[-4] < losses[0]  # the same batch comes round every four steps


@pytest.mark.parametrize("setting", ["default", "auxk_half_dead", "bfloat16"])
def test_seconds_and_memory_of_a_step_are_measured(setting: str) -> None:
    found = measured(Case("tiny", "topk", 4, "sae_platform", setting), "steps")
    assert found["seconds"] > 0
    assert found["peak_mb"] >= 0  # a tiny step fits into what the imports took


def test_our_buffer_is_measured() -> None:
    found = measured(Stage("buffer", "sae_platform"), "buffer")
    assert found["tokens"] == WIDE_ROWS
    assert WIDE_BUFFER / 4 < found["check"] < WIDE_BUFFER  # by how many places a row was moved


def measured(case: Case | Stage, mode: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.worker", mode, json.dumps(case.dump()), "cpu"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found
