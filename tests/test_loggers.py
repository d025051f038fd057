"""Loggers get everything; a broken one costs the run one warning."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from sae_platform import loggers
from sae_platform.loggers import Logger, LoggerFanOut

WAIT = 20.0  # seconds until a test is given up; nothing waits this long


class Recorder(Logger):
    """Keeps what it is told, and does `during` first."""

    def __init__(self, during: Callable[[str], None] = lambda call: None) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.threads: set[int] = set()
        self.told = threading.Condition()
        self._during = during

    def start(self, run: Mapping[str, Any], directory: Path) -> None:
        self._keep("start", dict(run), directory)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._keep("log", step, metrics)

    def finish(self, state: str) -> None:
        self._keep("finish", state)

    def _keep(self, *call: Any) -> None:
        self._during(call[0])
        with self.told:
            self.calls.append(call)
            self.threads.add(threading.get_ident())
            self.told.notify_all()

    def wait_for(self, calls: int) -> None:
        with self.told:
            assert self.told.wait_for(lambda: len(self.calls) >= calls, WAIT)


class Broken(Recorder):
    """Its own class, so that warnings name it."""


def log_until(fan_out: LoggerFanOut, done: Callable[[], object]) -> int:
    """Log step after step until `done`, and say how many."""
    pause = threading.Event()
    for step in range(5000):
        if done():
            return step
        fan_out.log(step, {"loss": 0.5})
        pause.wait(WAIT / 5000)
    raise AssertionError("it never happened")


def test_every_logger_gets_every_call_in_order_in_a_thread_of_its_own() -> None:
    first, second = Recorder(), Recorder()
    warnings: list[str] = []
    fan_out = LoggerFanOut([first, second], warnings.append)
    fan_out.start({"steps": 3}, Path("runs/one"))
    for step in range(100):
        fan_out.log(step, {"loss": step / 2})
    fan_out.close("finished")

    expected = [("log", step, {"loss": step / 2}) for step in range(100)]
    for logger in (first, second):
        assert logger.calls == [("start", {"steps": 3}, Path("runs/one")), *expected, ("finish", "finished")]
    assert len(first.threads) == len(second.threads) == 1
    assert not {threading.get_ident()} & (first.threads | second.threads)
    assert warnings == []


def test_metrics_are_copied_for_each_logger() -> None:
    go = threading.Event()
    first, second = Recorder(lambda _: assert_set(go)), Recorder(lambda _: assert_set(go))
    fan_out = LoggerFanOut([first, second], pytest.fail)
    metrics = {"loss": 1.0}
    fan_out.log(1, metrics)
    metrics["loss"] = 2.0
    go.set()
    first.wait_for(1)
    second.wait_for(1)
    assert first.calls == second.calls == [("log", 1, {"loss": 1.0})]
    assert first.calls[0][2] is not second.calls[0][2]
    fan_out.close("finished")


def assert_set(event: threading.Event) -> None:
    assert event.wait(WAIT)


@pytest.mark.parametrize("error", [RuntimeError("no network"), SystemExit(3)])
@pytest.mark.parametrize("failing", ["start", "log"])
def test_a_logger_that_raises_is_dropped_after_one_warning(failing: str, error: BaseException) -> None:
    def fail(call: str) -> None:
        if call == failing:
            raise error

    good, warnings, threads = Recorder(), [], set()

    def warn(text: str) -> None:
        warnings.append(text)
        threads.add(threading.get_ident())

    fan_out = LoggerFanOut([Broken(fail), good], warn)
    fan_out.start({}, Path())
    steps = log_until(fan_out, lambda: warnings)
    fan_out.log(steps, {})
    fan_out.close("finished")
    assert len(warnings) == 1
    assert f"Logger Broken raised {type(error).__name__}: {error}." in warnings[0]
    assert threads == {threading.get_ident()}
    assert len(good.calls) == steps + 3, "the others get everything: start, the steps and one more, finish"


def test_a_logger_that_fails_to_finish_is_named() -> None:
    def fail(call: str) -> None:
        if call == "finish":
            raise OSError("disk full")

    warnings: list[str] = []
    fan_out = LoggerFanOut([Broken(fail)], warnings.append)
    fan_out.log(1, {})
    fan_out.close("finished")
    assert [text.split(".")[0] for text in warnings] == ["Logger Broken raised OSError: disk full"]


def test_a_logger_that_hangs_is_dropped_and_told_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(loggers, "monotonic", lambda: now)
    entered, go = threading.Event(), threading.Event()

    def hang(call: str) -> None:
        entered.set()
        assert_set(go)

    hung, good = Broken(hang), Recorder()
    warnings: list[str] = []
    fan_out = LoggerFanOut([hung, good], warnings.append, patience=30)
    fan_out.log(1, {})
    assert_set(entered)
    good.wait_for(1)
    now = 29.0
    fan_out.log(2, {})
    good.wait_for(2)
    assert warnings == []

    now = 31.0
    fan_out.log(3, {})
    fan_out.log(4, {})
    good.wait_for(4)
    assert [text.split(".")[0] for text in warnings] == ["Logger Broken has not returned for 30 seconds"]
    go.set()
    for thread in threading.enumerate():
        if thread.name == "Broken":
            thread.join(WAIT)
            assert not thread.is_alive()
    assert hung.calls == [("log", 1, {})]
    fan_out.close("finished")
    assert len(warnings) == 1


def test_a_logger_that_falls_behind_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loggers, "QUEUE_SIZE", 5)
    go = threading.Event()
    warnings: list[str] = []
    fan_out = LoggerFanOut([Broken(lambda _: assert_set(go))], warnings.append)
    for step in range(8):
        fan_out.log(step, {})
    assert [text.split(".")[0] for text in warnings] == ["Logger Broken is 5 calls behind"]
    go.set()
    fan_out.close("finished")
    assert len(warnings) == 1


def test_closing_does_not_wait_for_a_logger_that_hangs() -> None:
    go = threading.Event()
    good = Recorder()
    warnings: list[str] = []
    fan_out = LoggerFanOut([Broken(lambda _: assert_set(go)), good], warnings.append, patience=0.5)
    fan_out.close("interrupted")
    assert len(warnings) == 1
    assert "Logger Broken" in warnings[0]
    assert "0.5 seconds" in warnings[0]
    assert good.calls == [("finish", "interrupted")]
    go.set()


def test_calls_after_the_end_go_nowhere() -> None:
    good = Recorder()
    fan_out = LoggerFanOut([good], pytest.fail)
    fan_out.close("finished")
    fan_out.log(1, {})
    fan_out.close("failed")
    assert good.calls == [("finish", "finished")]
