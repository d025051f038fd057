"""The speed of the stages: all of them, for any source, without a trace."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from sae_platform import PlatformError, RunConfig
from sae_platform.cli import main
from sae_platform.stages import measure_stages
from tape import SYNTHETIC, TapeConfig, a_run

TINYPY = RunConfig(sae={"d_sae": 256, "k": 4}, training={"tokens": 1000, "batch_size": 64, "buffer": 256})
BRIEF = 0.02  # seconds


@pytest.mark.parametrize(
    ("run", "names"),
    [
        (TINYPY, ["text", "model", "harvest", "buffer", "step", "together"]),
        (a_run(SYNTHETIC), ["harvest", "buffer", "step", "together"]),
    ],
)
def test_every_stage_is_measured(run: RunConfig, names: list[str]) -> None:
    stages = list(measure_stages(run, BRIEF))
    assert [stage.name for stage in stages] == names
    for stage in stages:
        assert stage.tokens > 0
        assert stage.tokens_per_second == pytest.approx(stage.tokens / stage.seconds)


def test_a_source_that_ends_is_begun_again() -> None:
    assert list(measure_stages(a_run(TapeConfig(rows=128)), 10 * BRIEF))


def test_measuring_leaves_torchs_generator_as_it_was() -> None:
    before = torch.get_rng_state()
    list(measure_stages(a_run(SYNTHETIC), BRIEF))
    assert torch.equal(torch.get_rng_state(), before)


def test_bad_input_is_refused_as_by_a_run() -> None:
    with pytest.raises(PlatformError, match="width 16"):
        list(measure_stages(a_run(SYNTHETIC, {"architecture": "topk", "d_in": 5, "d_sae": 64, "k": 4}), BRIEF))


def test_the_command_prints_a_table_or_json_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = [f"source.{key}={value}" for key, value in SYNTHETIC.items()] + ["sae.d_sae=64", "sae.k=4"]
    arguments = ["bench", "stages", "--seconds", str(BRIEF), *(a for each in settings for a in ("--set", each))]
    table = CliRunner().invoke(main, arguments)
    assert table.exit_code == 0, table.output
    assert [line.split()[0] for line in table.stdout.splitlines()] == ["stage", "harvest", "buffer", "step", "together"]
    numbers = json.loads(CliRunner().invoke(main, [*arguments, "--json"]).stdout)
    assert set(numbers) == {"harvest", "buffer", "step", "together"}
    assert all(number > 0 for number in numbers.values())
    assert list(tmp_path.iterdir()) == []
