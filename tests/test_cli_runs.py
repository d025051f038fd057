from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sae_platform.cli import main
from sae_platform.runs import RunDirectory

RUN_TOML = '[sae]\narchitecture = "topk"\nk = 32\n'


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two runs: one finished and evaluated, one interrupted before its first metric."""
    done = RunDirectory.create(tmp_path, "done", RUN_TOML, "topk", total_tokens=8192)
    done.record(10, {"metrics/l0": 40.0, "metrics/explained_variance": 0.5, "losses/mse_loss": float("nan")})
    done.heartbeat(10, 4096)
    done.finish("finished")
    measured = {"sparsity": {"l0": 32.25}, "model_performance_preservation": {"ce_loss_score": 0.98765}}
    (tmp_path / "done/evaluation.json").write_text(json.dumps({"metrics": measured, "version": 1}))
    (tmp_path / "done/sae").mkdir()
    RunDirectory.create(tmp_path, "begun", RUN_TOML, "topk").finish("failed", "The disk is full.")
    return tmp_path


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["runs", *map(str, arguments)])


def listed(root: Path) -> dict[str, dict[str, object]]:
    return {entry["name"]: entry for entry in json.loads(run("list", "--runs", root, "--json").output)["runs"]}


def test_list_shows_how_far_and_how_good_each_run_is(root):
    result = run("list", "--runs", root)
    assert result.exit_code == 0
    header, *rows = result.stdout.splitlines()
    assert header.split()[:5] == ["name", "state", "architecture", "step", "tokens"]
    cells = {row.split()[0]: row.split() for row in rows}
    assert cells["done"][1:8] == ["finished", "topk", "10", "4,096", "32.25", "0.5", "0.9877"]
    assert cells["done"][8].endswith("s")
    assert cells["begun"][1:8] == ["failed", "topk", "0", "0", "-", "-", "-"]
    assert "begun: The disk is full." in result.stderr


def test_list_prefers_what_the_evaluation_measured_to_what_training_saw(root):
    entry = listed(root)["done"]
    assert entry["l0"] == 32.25
    assert entry["explained_variance"] == 0.5


def test_one_damaged_run_does_not_hide_the_others(root):
    (root / "begun/metrics.db").write_text("not a database")
    (root / "done/status.json").write_text("{")
    entries = listed(root)
    assert "metrics.db" in entries["begun"]["error"]
    assert entries["done"]["state"] == "stopped"
    assert "cannot read status.json" in entries["done"]["error"]
    assert run("list", "--runs", root).exit_code == 0


def test_an_empty_folder_says_how_to_start_a_run(tmp_path):
    result = run("list", "--runs", tmp_path / "nothing")
    assert result.exit_code == 0
    assert "`sae-platform train` starts one" in result.output


def test_show_tells_everything_about_a_run(root):
    checkpoint = root / "done/checkpoints/step-00000010"
    checkpoint.mkdir(parents=True)
    (checkpoint / "manifest.json").write_text("{}")
    output = run("show", "done", "--runs", root).output
    lines = [line.split() for line in output.splitlines()]
    assert ["state", "finished"] in lines
    assert ["tokens", "4,096", "of", "8,192"] in lines
    assert 'architecture = "topk"' in output
    assert ["metrics/l0", "40"] in lines
    assert ["metrics/model_performance_preservation/ce_loss_score", "0.98765"] in lines
    assert str(checkpoint) in output
    assert f'sae = SAE.load_from_disk("{root}/done/sae")' in output


def test_show_says_what_is_not_there_yet(root):
    output = run("show", "begun", "--runs", root).output
    assert "failed  The disk is full." in output
    assert f"none; this measures it: sae-platform evaluate {root}/begun" in output
    assert "There is no SAE yet." in output


def test_show_offers_the_newest_checkpoint_while_there_is_no_finished_sae(root):
    for step in (5, 10):
        checkpoint = root / f"begun/checkpoints/step-{step:08}"
        (checkpoint / "sae").mkdir(parents=True)
        (checkpoint / "manifest.json").write_text("{}")
    assert 'begun/checkpoints/step-00000010/sae")' in run("show", "begun", "--runs", root).output


def test_show_gives_json_with_null_for_what_is_no_number(root):
    report = json.loads(run("show", "done", "--runs", root, "--json").output)
    assert report["status"]["state"] == "finished"
    assert report["run"] == {"sae": {"architecture": "topk", "k": 32}}
    assert report["latest"]["losses/mse_loss"] is None
    assert report["evaluation"]["metrics"]["sparsity"]["l0"] == 32.25
    assert report["sae"] == str(root / "done/sae")


def test_an_unknown_run_is_answered_with_the_nearest_name(root):
    result = run("show", "don", "--runs", root)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Error: There is no run 'don' in {root}. Did you mean 'done'?")
