from __future__ import annotations

from pathlib import Path

import numpy as np


def test_the_environment_uses_the_installed_wheel_and_not_the_working_tree(environment):
    home = environment.run("python", "-c", "import sae_platform; print(sae_platform.__file__)")
    assert Path(home.strip()).is_relative_to(environment.folder)


def test_an_outside_plugin_comes_through_the_same_door_as_the_built_in_ones(environment):
    rows = [row.split(maxsplit=4) for row in environment.run("sae-platform", "plugins", "check").splitlines()]
    offers = {row[0]: row[-1] for row in rows}
    assert offers["hello"] == "activation source:npy, architecture:batchtopk, logger:csvlog"
    assert offers["topk"] == "architecture:topk, architecture:abstopk"


def test_an_outside_plugin_passes_its_own_tests(environment, outside_plugin):
    printed = environment.run("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=outside_plugin)
    assert "passed" in printed


def test_the_outside_parts_train_together_from_a_run_file(environment, tmp_path):
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).standard_normal((1024, 8), np.float32))
    (tmp_path / "run.toml").write_text("""
        loggers = [{ kind = "csvlog" }]
        [source]
        kind = "npy"
        path = "rows.npy"
        [sae]
        architecture = "batchtopk"
        d_sae = 32
        k = 4
        [training]
        tokens = 512
        batch_size = 64
        buffer = 256
        log_every = 2
    """)
    printed = environment.run("sae-platform", "train", "run.toml", "--name", "first", cwd=tmp_path)
    run = tmp_path / "runs/first"
    assert printed.splitlines()[-1] == "runs/first"
    assert (run / "metrics.csv").read_text().startswith("step,name,value\n")
    assert '"batchtopk"' in (run / "sae/cfg.json").read_text()
    assert "finished" in environment.run("sae-platform", "runs", "list", cwd=tmp_path)
