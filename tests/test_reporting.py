"""A run and those who watch it: loggers, displays and signals."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import pytest

from sae_platform import SAE, RunDirectory, train
from sae_platform.components import LoggerConfig
from sae_platform.errors import Interrupted
from sae_platform.loggers import Logger
from sae_platform.reporting import Display
from tape import D_IN, Tape, a_run, texts

WAIT = 60  # seconds until a test is given up; nothing waits this long
CALLS: list[tuple[str, Any]] = []


class WitnessConfig(LoggerConfig):
    """Tells CALLS everything, and breaks at a step."""

    kind: Literal["witness"] = "witness"
    name: str
    breaks_at: int = -1

    def build(self) -> Logger:
        return Witness(self)


class Witness(Logger):
    def __init__(self, cfg: WitnessConfig) -> None:
        self.cfg = cfg

    def start(self, run: Mapping[str, Any], directory: Path) -> None:
        CALLS.append((self.cfg.name, (run["sae"]["d_in"], directory.name)))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        if step == self.cfg.breaks_at:
            raise ConnectionError("nobody there")
        if "loss" in metrics:
            CALLS.append((self.cfg.name, step))

    def finish(self, state: str) -> None:
        CALLS.append((self.cfg.name, state))


def test_a_logger_that_raises_is_dropped_and_costs_the_run_nothing(tmp_path: Path) -> None:
    CALLS.clear()
    loggers = (WitnessConfig(name="broken", breaks_at=3), WitnessConfig(name="whole"))
    run = train(a_run(loggers=loggers), tmp_path, "watched")
    assert run.status().state == "finished"
    (warning,) = texts(run, "warning")
    assert "Witness raised ConnectionError: nobody there" in warning
    heard = {name: [what for who, what in CALLS if who == name] for name in ("broken", "whole")}
    assert heard == {
        "broken": [(D_IN, "watched"), 1, 2],
        "whole": [(D_IN, "watched"), *range(1, 11), "finished"],
    }
    assert [step for step, _ in run.metrics("loss")["loss"]] == list(range(1, 11))


class Caller(Display):
    """Does something in the run's own thread when a step is shown."""

    def __init__(self, at: int, call: Callable[[], object]) -> None:
        self.at, self.call = at, call
        self.ended = ""

    def start(self, run: Mapping[str, Any], directory: Path) -> None: ...

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        if step == self.at and "loss" in metrics:
            self.call()

    def finish(self, state: str) -> None:
        self.ended = state


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_makes_a_checkpoint_and_says_how_to_load_it(
    number: signal.Signals, tmp_path: Path
) -> None:
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    display = Caller(3, lambda: os.kill(os.getpid(), number))
    with pytest.raises(Interrupted, match=r"Stopped after step 4\. Load what there is with SAE") as stopped:
        train(a_run(), tmp_path, "stopped", display)
    assert stopped.value.exit_code == 128 + number
    run = RunDirectory(tmp_path / "stopped")
    (checkpoint,) = run.checkpoints()
    assert checkpoint.name == "step-00000004"
    assert f'SAE.load_from_disk("{checkpoint / "sae"}")' in str(stopped.value)
    assert SAE.load_from_disk(checkpoint / "sae").d_in == D_IN
    assert (run.status().state, display.ended) == ("interrupted", "interrupted")
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_handlers_of_signals_are_put_back_after_a_run(tmp_path: Path) -> None:
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    inside: list[Any] = []
    train(a_run(), tmp_path, display=Caller(3, lambda: inside.append(signal.getsignal(signal.SIGTERM))))
    assert inside != [handlers[1]]
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_a_display_that_raises_ends_the_run_as_failed(tmp_path: Path) -> None:
    def broken() -> None:
        raise RuntimeError("no terminal")

    with pytest.raises(RuntimeError, match="no terminal"):
        train(a_run(), tmp_path, "shown", Caller(2, broken))
    status = RunDirectory(tmp_path / "shown").status()
    assert (status.state, status.message) == ("failed", "no terminal")


def test_a_run_can_be_trained_in_any_thread(tmp_path: Path) -> None:
    runs: list[RunDirectory] = []
    thread = threading.Thread(target=lambda: runs.append(train(a_run(), tmp_path)), daemon=True)
    thread.start()
    thread.join(WAIT)
    assert [run.status().state for run in runs] == ["finished"]


def test_a_signal_in_the_evaluation_leaves_the_finished_sae(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Tape, "score", lambda source, sae: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Interrupted, match="Stopped during the evaluation. The SAE is finished"):
        train(a_run(), tmp_path, "stopped")
    run = RunDirectory(tmp_path / "stopped")
    assert run.status().state == "interrupted"
    assert SAE.load_from_disk(run.sae_path).d_in == D_IN


def test_a_signal_before_the_first_step_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Tape, "harvest", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted, match="Stopped before the first step; nothing was written") as stopped:
        train(a_run(), tmp_path / "runs")
    assert stopped.value.exit_code == 128 + signal.SIGTERM
    assert not (tmp_path / "runs").exists()
