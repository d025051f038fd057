"""The command line from a run file to numbers: what goes where, and how it ends."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sae_platform import SAE
from sae_platform.cli import main
from sae_platform.runs import RunDirectory

PROGRAM = Path(sys.executable).with_name("sae-platform")
SYNTHETIC = (
    "source.kind=synthetic", "source.d_in=16", "source.n_features=24", "source.held_out_rows=512",
    "sae.d_sae=64", "sae.k=4", "training.batch_size=64", "training.buffer=256",
)  # fmt: skip
WAIT = 60  # seconds until a test is given up; nothing waits this long
GENERIC = {"explained_variance", "fvu", "mse", "cosine_similarity", "l0", "dead_fraction"}
PRESERVATION = {
    "ce_loss_score", "ce_loss_with_sae", "ce_loss_without_sae", "ce_loss_with_ablation", "kl_div_score",
    "ce_loss_score_mean", "ce_loss_with_mean_ablation",
}  # fmt: skip


def settings(*given: str) -> list[str]:
    return [argument for setting in given for argument in ("--set", setting)]


def invoke(*arguments: str | Path) -> Result:
    """A command in this process."""
    return CliRunner().invoke(main, [*map(str, arguments)])


@contextmanager
def started(*arguments: str | Path, stderr: int = subprocess.PIPE) -> Iterator[subprocess.Popen[str]]:
    """A command in a process of its own, which does not outlive the block."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TERM": "xterm", "COLUMNS": "150"}
    with subprocess.Popen(
        [PROGRAM, *map(str, arguments)], stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three hundred short documents."""
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text("\n\n".join(f"def f{number}(x):\n    return x * {number} + len(str(x))" for number in range(300)))
    return file


class Trained:
    """A run on the embedded model, and what the command printed."""

    def __init__(self, text: Path, runs: Path) -> None:
        self.runs = runs
        model = (
            f"source.dataset={text}", "source.context_size=32", "sae.d_sae=256", "sae.k=8", "training.tokens=1500",
            "training.batch_size=256", "training.buffer=512", "training.checkpoint_every=3",
            "evaluation.tokens=200", "evaluation.preservation_tokens=128",
        )  # fmt: skip
        with started("train", "--runs", runs, "--name", "small", *settings(*model)) as process:
            self.stdout, self.stderr = process.communicate()
        assert process.returncode == 0, self.stderr
        self.directory = RunDirectory(runs / "small")


@pytest.fixture(scope="module")
def trained(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return Trained(text, tmp_path_factory.mktemp("runs"))


def test_train_prints_the_run_directory_and_nothing_else_on_stdout(trained: Trained) -> None:
    assert trained.stdout == f"{trained.directory.path}\n"
    status = trained.directory.status()
    assert (status.state, status.tokens) == ("finished", 1500)


def test_train_tells_its_story_in_plain_lines_where_there_is_no_terminal(trained: Trained) -> None:
    assert not re.search(r"[\x1b\r]", trained.stderr)
    story = (
        "Opening the source and filling the shuffle buffer.",
        f"topk SAE, 192 -> 256, on blocks.1.hook_resid_post of tinypy: {trained.directory.path}",
        f"Checkpoint {trained.directory.path}/checkpoints/step-00000003.",
        "step 6  100%  loss ",
        "The SAE read back from disk measures the same as the trained one.",
        "Held-out evaluation",
        "CE loss score",
        f'Load it with SAE.load_from_disk("{trained.directory.sae_path}").',
    )
    places = [trained.stderr.find(part) for part in story]
    assert -1 not in places
    assert places == sorted(places)
    assert re.search(r"explained -?\d\.\d+  dead \d+\.\d%  [\d,]+ tokens/s  0 s left\n", trained.stderr)


def test_evaluate_prints_one_json_object_with_every_metric(trained: Trained) -> None:
    result = invoke("evaluate", trained.directory.path, "--json", "--tokens", 200, "--preservation-tokens", 128)
    assert result.exit_code == 0, result.output
    measured = json.loads(result.stdout)
    assert measured.keys() >= GENERIC | PRESERVATION
    assert measured.pop("path") == str(trained.directory.sae_path)
    assert measured == pytest.approx(trained.directory.evaluation(), rel=1e-5)
    assert result.stderr == ""


def test_evaluate_takes_a_checkpoint_and_fewer_tokens(trained: Trained) -> None:
    (*_, checkpoint) = trained.directory.checkpoints()
    result = invoke("evaluate", checkpoint, "--json", "--tokens", 50, "--preservation-tokens", 0)
    measured = json.loads(result.stdout)
    assert (measured["tokens"], measured["path"]) == (50, str(checkpoint / "sae"))
    assert not PRESERVATION & measured.keys()


def test_evaluate_prints_a_table_for_people(trained: Trained) -> None:
    result = invoke("evaluate", trained.directory.sae_path, "--tokens", 50, "--preservation-tokens", 32)
    assert result.exit_code == 0
    assert str(trained.directory.sae_path) in result.stdout.replace("\n", "")
    for label in ("explained variance", "L0 (active features per token)", "CE loss score", "KL divergence score"):
        assert label in result.stdout


def test_evaluate_answers_what_is_no_sae(tmp_path: Path, trained: Trained) -> None:
    result = invoke("evaluate", tmp_path / "nothing")
    assert result.exit_code == 2
    assert "nothing is no run, checkpoint or SAE folder. The folder does not exist." in result.stderr
    inside = invoke("evaluate", trained.runs)
    assert inside.exit_code == 2
    assert str(trained.directory.sae_path) in inside.stderr
    device = invoke("evaluate", trained.directory.path, "--device", "cudaa")
    assert device.exit_code == 2
    assert "The device 'cudaa' cannot be used" in device.stderr


def test_runs_knows_the_run(trained: Trained) -> None:
    (listed,) = json.loads(invoke("runs", "list", "--runs", trained.runs, "--json").stdout)["runs"]
    evaluation = trained.directory.evaluation()
    assert evaluation is not None
    assert (listed["name"], listed["state"], listed["architecture"]) == ("small", "finished", "topk")
    assert (listed["step"], listed["tokens"]) == (6, 1500)
    assert listed["ce_loss_score"] == evaluation["ce_loss_score"]
    shown = invoke("runs", "show", "small", "--runs", trained.runs)
    assert shown.exit_code == 0
    assert f'SAE.load_from_disk("{trained.directory.sae_path}")' in shown.stdout


def test_config_show_prints_a_run_file_that_trains(tmp_path: Path) -> None:
    shown = invoke("config", "show", *settings(*SYNTHETIC, "training.tokens=200", "training.clip_grad_norm=0"))
    assert shown.exit_code == 0
    file = tmp_path / "run.toml"
    file.write_text(shown.stdout)
    trained = invoke("train", file, "--runs", tmp_path / "runs[a]")
    assert trained.exit_code == 0, trained.stderr
    run = RunDirectory(Path(trained.stdout.rstrip("\n")))
    assert run.path.parent == tmp_path / "runs[a]"
    asked, written = tomllib.loads(shown.stdout), tomllib.loads(run.run_toml.read_text())
    assert written == {**asked, "sae": {**asked["sae"], "d_in": 16}}
    assert str(run.sae_path) in trained.stderr


def test_config_schema_prints_json() -> None:
    schema = json.loads(invoke("config", "schema").stdout)
    assert schema["properties"].keys() == {"source", "sae", "training", "evaluation", "loggers"}


ENDLESS = (*SYNTHETIC, "training.tokens=1_000_000_000")


def assert_interrupted(run: RunDirectory, output: str) -> None:
    """The run says that it was, and what was printed loads its SAE."""
    assert "Traceback" not in output
    said = re.search(
        r"Error: Stopped after step (\d+)\. Load what there is with SAE\.load_from_disk\(\"(.+)\"\)", output
    )
    assert said
    assert SAE.load_from_disk(said[2]).d_sae == 64
    status = run.status()
    assert (status.state, status.step) == ("interrupted", int(said[1]))


def test_sigterm_ends_the_run_with_a_checkpoint_to_load(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "stopped")
    with started("train", "--runs", tmp_path, "--name", "stopped", *settings(*ENDLESS)) as process:
        assert process.stderr is not None
        assert any(line.startswith("step ") for line in iter(process.stderr.readline, ""))
        assert run.latest()["loss"] > 0
        process.terminate()
        stdout, stderr = process.communicate()
    assert (process.returncode, stdout) == (143, f"{run.path}\n")
    assert_interrupted(run, stderr)
    (listed,) = json.loads(invoke("runs", "list", "--runs", tmp_path, "--json").stdout)["runs"]
    assert listed["state"] == "interrupted"


def test_a_terminal_gets_a_live_line_and_its_ctrl_c_a_checkpoint_to_load(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "live")
    master, slave = pty.openpty()
    arguments = ("train", "--runs", tmp_path, "--name", "live", *settings(*ENDLESS))
    with started(*arguments, stderr=slave) as process, os.fdopen(master, "rb", 0) as terminal:
        os.close(slave)
        screen = b""
        while b" tokens/s" not in screen:
            screen += terminal.read(65536)
        assert run.latest()["loss"] > 0
        process.send_signal(signal.SIGINT)
        with suppress(OSError):  # how Linux says that the other end is closed
            while part := terminal.read(65536):
                screen += part
        assert process.stdout is not None
        assert process.stdout.read() == f"{run.path}\n"
        assert process.wait(WAIT) == 130
    assert re.search(r"\x1b\[\d*[A-Za-z]", screen.decode())
    assert re.search(r" 0%.*loss \d+\.\d+  L0 4\.0  explained ", screen.decode())
    assert_interrupted(run, screen.decode())


def test_a_second_signal_ends_the_process_at_once() -> None:
    program = """
from threading import Event
from sae_platform.signals import StopSignals
with StopSignals() as signals:
    print("on", flush=True)
    while signals.received is None:
        Event().wait(0.01)
    print(signals.received, flush=True)
    Event().wait()
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "on\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == f"{int(signal.SIGTERM)}\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == ""
    assert process.returncode == -signal.SIGINT


# bad input: exit 2, one message with what would be right, no traceback, nothing written


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("sae.kk=3", "Error: sae.kk is not a setting of architecture 'topk'. Did you mean 'k'? Settings: "),
        ('sae.architecture="topkk"', "Error: sae: No architecture is called 'topkk'. Did you mean 'topk'? Installed: "),
        ("sae.k=4000", "Error: sae: k = 4000 is more than d_sae = 3072; choose k from 1 to 3072"),
    ],
)
def test_a_mistake_in_the_run_file_is_answered_at_once(setting: str, message: str, tmp_path: Path) -> None:
    with started("train", "--runs", tmp_path / "runs", *settings(setting)) as process:
        stdout, stderr = process.communicate()
    assert (process.returncode, stdout) == (2, "")
    assert stderr.startswith(message)
    assert stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("source.model=./nowhere/model", "The model folder 'nowhere/model' does not exist"),
        ("source.dataset={empty}", "has no document that is not blank"),
        ("source.hook_name=blocks.9.hook_resid_post", "no hook 'blocks.9.hook_resid_post'. Did you mean 'blocks."),
        ("source.hook_name=blocks.1.hook_resid_pots", "Did you mean 'blocks.1.hook_resid_post'?"),
        ("training.device=cudaa", "The device 'cudaa' cannot be used"),
        ("training.buffer=2XB", "'2XB' is not the size of a shuffle buffer"),
        ("sae.d_in=3", "sae.d_in is 3, but the activations of this source have width 192"),
    ],
)
def test_what_the_run_names_and_is_not_there_is_answered_too(
    setting: str, message: str, text: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty.txt").write_text(" \n\n ")
    asked = setting.format(empty=tmp_path / "empty.txt")
    result = invoke("train", "--runs", tmp_path / "runs", *settings(f"source.dataset={text}", asked))
    assert result.exit_code == 2
    assert result.stdout == ""
    (error,) = (line for line in result.stderr.splitlines() if line.startswith("Error: "))
    assert message in error
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "runs").exists()


def test_a_run_file_that_is_not_there_and_a_name_that_is_taken_are_answered(tmp_path: Path, trained: Trained) -> None:
    missing = invoke("train", tmp_path / "run.toml")
    assert missing.exit_code == 2
    assert missing.stderr == f"Error: The run file {tmp_path}/run.toml cannot be read: No such file or directory.\n"
    taken = invoke("train", "--runs", trained.runs, "--name", "small", *settings(*SYNTHETIC, "training.tokens=64"))
    assert taken.exit_code == 2
    assert "There already is a run 'small'" in taken.stderr
    assert trained.directory.status().state == "finished"
