"""The run directory: whole at any moment, one writer, any number of readers."""

from __future__ import annotations

import json
import math
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from sae_platform import runs
from sae_platform.errors import PlatformError
from sae_platform.runs import Ending, RunDirectory, RunWriter, find_run, list_runs, write_atomic


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunWriter]:
    writer = RunDirectory.create(tmp_path, "one", "steps = 3\n", "topk", total_tokens=4096)
    yield writer
    if writer.is_alive():
        writer.finish("finished")


def test_a_new_run_is_running_and_says_who_runs_it(run: RunWriter, tmp_path: Path) -> None:
    assert (tmp_path / "one" / "run.toml").read_text() == "steps = 3\n"
    written = json.loads((tmp_path / "one" / "status.json").read_text())
    assert written["state"] == "running"
    assert written["pid"] == os.getpid()
    assert {"host", "started", "heartbeat", "step", "tokens", "total_tokens", "message"} < set(written)
    reader = RunDirectory(tmp_path / "one")
    assert reader.is_alive()
    assert reader.status().total_tokens == 4096
    assert (reader.metrics(), reader.latest(), reader.events(), reader.checkpoints()) == ({}, {}, [], [])
    assert reader.evaluation() is None
    assert reader.sae_path == tmp_path / "one" / "sae"


def test_a_run_without_a_name_is_named_by_kind_and_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Noon(datetime):
        @classmethod
        def now(cls, tz: object = None) -> Noon:
            return cls(2031, 5, 6, 12, 0, 7)

    monkeypatch.setattr(runs, "datetime", Noon)
    for expected in ("topk-20310506-120007", "topk-20310506-120007-2", "topk-20310506-120007-3"):
        writer = RunDirectory.create(tmp_path / "runs", None, "", "topk")
        assert writer.path == tmp_path / "runs" / expected
        writer.finish("finished")


def test_a_taken_name_is_refused_and_the_run_untouched(run: RunWriter, tmp_path: Path) -> None:
    with pytest.raises(PlatformError, match="There already is a run 'one'"):
        RunDirectory.create(tmp_path, "one", "other", "topk")
    assert run.run_toml.read_text() == "steps = 3\n"


@pytest.mark.parametrize("name", ["", ".", "..", "../out", "a/b", "/tmp/x"])
def test_a_name_that_is_not_one_folder_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(PlatformError, match="cannot be the name of a run"):
        RunDirectory.create(tmp_path / "runs", name, "", "topk")
    assert list(tmp_path.iterdir()) == []


def test_a_root_that_is_a_file_is_an_error_for_people(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(PlatformError, match="Cannot make the run's folder"):
        RunDirectory.create(tmp_path / "runs", None, "", "topk")


def test_metrics_are_read_while_they_are_written(run: RunWriter) -> None:
    reader = RunDirectory(run.path)
    run.record(1, {"loss": 2.0, "l0": 30})
    run.record(2, {"loss": 1.0})
    assert reader.metrics() == {"loss": [(1, 2.0), (2, 1.0)], "l0": [(1, 30.0)]}
    assert reader.metrics("loss") == {"loss": [(1, 2.0), (2, 1.0)]}
    assert reader.metrics(after=1) == {"loss": [(2, 1.0)]}
    assert reader.metrics("l0", after=1) == {}
    assert reader.latest() == {"loss": 1.0, "l0": 30.0}


def test_a_step_recorded_again_replaces_its_values(run: RunWriter) -> None:
    run.record(1, {"loss": 2.0, "l0": 3.0})
    run.record(1, {"loss": 1.5})
    assert run.metrics() == {"loss": [(1, 1.5)], "l0": [(1, 3.0)]}


def test_values_that_are_not_finite_are_kept(run: RunWriter) -> None:
    run.record(1, {"a": math.nan, "b": math.inf, "c": -math.inf})
    assert math.isnan(run.metrics("a")["a"][0][1])
    latest = run.latest()
    assert math.isnan(latest["a"])
    assert (latest["b"], latest["c"]) == (math.inf, -math.inf)


def test_events_are_kept_in_the_database_and_the_log(run: RunWriter) -> None:
    run.heartbeat(7, 700)
    run.event("logger wandb was dropped", level="warning")
    (event,) = RunDirectory(run.path).events()
    assert (event.step, event.level, event.text) == (7, "warning", "logger wandb was dropped")
    stamp, rest = (run.path / "log.txt").read_text().split(" ", 1)
    assert abs(datetime.fromisoformat(stamp).timestamp() - event.time) <= 1
    assert rest == "WARNING logger wandb was dropped\n"


def test_heartbeats_are_written_once_a_second(run: RunWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, now = RunDirectory(run.path), run.status().heartbeat
    monkeypatch.setattr(runs.time, "time", lambda: now)
    run.heartbeat(1, 10)
    assert reader.status().step == 0
    now += 1.01
    run.heartbeat(2, 20)
    status = reader.status()
    assert (status.step, status.tokens, status.heartbeat) == (2, 20, now)


@pytest.mark.parametrize("state", ["finished", "interrupted", "failed"])
def test_a_run_ends_with_its_last_step_and_one_plain_database(state: Ending, run: RunWriter) -> None:
    run.record(9, {"loss": 1.0})
    run.heartbeat(9, 90)
    run.finish(state, "because")
    reader = RunDirectory(run.path)
    status = reader.status()
    assert (status.state, status.message, status.step, status.tokens) == (state, "because", 9, 90)
    assert not reader.is_alive()
    assert reader.events()[-1].text == f"{state}: because"
    assert {path.name for path in run.path.glob("metrics.db*")} == {"metrics.db"}
    assert (run.path / "metrics.db").read_bytes()[18:20] == b"\1\1", "not in WAL mode"


KILLED = """
import sys
from pathlib import Path
from sae_platform.runs import RunDirectory
writer = RunDirectory.create(Path(sys.argv[1]), "killed", "", "topk")
for step in range(1, 6):
    writer.record(step, {"loss": step / 2})
print("ready", flush=True)
sys.stdin.read()
"""


def test_a_killed_run_is_shown_as_stopped_whole_and_can_be_resumed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        run = find_run(tmp_path, "killed")
        started = run.status().started
        assert run.status().state == "running"
        with pytest.raises(PlatformError, match=f"is being written by process {process.pid} on "):
            run.resume(step=3)
        process.send_signal(signal.SIGKILL)

    assert run.status().state == "stopped"
    assert run.metrics("loss")["loss"] == [(step, step / 2) for step in range(1, 6)]
    writer = run.resume(step=3)
    status = run.status()
    assert (status.state, status.pid, status.step, status.started) == ("running", os.getpid(), 3, started)
    assert [step for step, _ in run.metrics("loss")["loss"]] == [1, 2, 3], "what came after the checkpoint comes again"
    writer.finish("finished")


def test_a_second_writer_is_refused_until_the_first_is_done(run: RunWriter) -> None:
    with pytest.raises(PlatformError, match=f"process {os.getpid()} on .*Wait for it or stop it first"):
        RunDirectory(run.path).resume(0)
    run.event("still writing")
    run.finish("interrupted", "SIGINT")
    second = RunDirectory(run.path).resume(0)
    assert run.status().message == ""
    second.finish("finished")


def test_on_another_host_the_heartbeat_tells_whether_a_run_is_alive(
    run: RunWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    heartbeat = run.status().heartbeat
    monkeypatch.setattr(runs.socket, "gethostname", lambda: "elsewhere")
    monkeypatch.setattr(runs.os, "kill", lambda *_: pytest.fail("a process id of another host means nothing"))
    assert run.is_alive()
    monkeypatch.setattr(runs.time, "time", lambda: heartbeat + runs.SILENCE_SECONDS + 1)
    assert run.status().state == "stopped"


def test_another_users_process_is_alive(run: RunWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int, signal_number: int) -> None:
        raise PermissionError

    monkeypatch.setattr(runs.os, "kill", refuse)
    assert run.is_alive()


def test_only_complete_checkpoints_count_and_they_are_in_order(run: RunWriter) -> None:
    for name in ("step-00001000", "step-100000000", "step-00000200", "step-00000300.tmp-ab", "step-9", "best"):
        (run.checkpoints_path / name).mkdir(parents=True)
        (run.checkpoints_path / name / "manifest.json").write_text("{}")
    (run.checkpoints_path / "step-00002000").mkdir()
    assert [path.name for path in run.checkpoints()] == ["step-00000200", "step-00001000", "step-100000000"]


def test_the_evaluation_is_read_or_its_damage_named(run: RunWriter) -> None:
    (run.path / "evaluation.json").write_text('{"explained_variance": 0.9}')
    assert run.evaluation() == {"explained_variance": 0.9}
    (run.path / "evaluation.json").write_text('{"explained')
    with pytest.raises(PlatformError, match=r"Cannot read .*evaluation\.json"):
        run.evaluation()


def test_runs_are_listed_newest_first_without_foreign_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1e9
    monkeypatch.setattr(runs.time, "time", lambda: now)
    for name in ("b", "c", "a"):
        RunDirectory.create(tmp_path, name, "", "topk").finish("finished")
        now += 10
    (tmp_path / "notes").mkdir()
    (tmp_path / "file").write_text("")
    assert [run.name for run in list_runs(tmp_path)] == ["a", "c", "b"]
    assert list_runs(tmp_path / "missing") == []


def test_one_damaged_run_does_not_hide_the_others(run: RunWriter, tmp_path: Path) -> None:
    RunDirectory.create(tmp_path, "two", "", "topk").finish("finished")
    (tmp_path / "two" / "status.json").write_text("{")
    assert [found.name for found in list_runs(tmp_path)] == ["one", "two"]
    status = find_run(tmp_path, "two").status()
    assert status.state == "stopped"
    assert "damaged" in status.message
    with pytest.raises(PlatformError, match="damaged"):
        find_run(tmp_path, "two").resume(0)


@pytest.mark.parametrize("name", ["onne", "../runs/one", ""])
def test_a_run_that_does_not_exist_is_refused_with_what_does(name: str, run: RunWriter, tmp_path: Path) -> None:
    with pytest.raises(PlatformError, match=r"Runs: one\."):
        find_run(tmp_path, name)
    with pytest.raises(PlatformError, match="Did you mean 'one'"):
        find_run(tmp_path, "onne")


def test_a_failing_database_is_an_error_for_people_and_loses_nothing(
    run: RunWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.record(1, {"loss": 1.0})
    run._database.execute("PRAGMA max_page_count = 1")
    with pytest.raises(PlatformError, match=r"Cannot use .*metrics\.db: database or disk is full"):
        run.record(2, {f"metric {number}": 1.0 for number in range(10_000)})
    assert run.metrics() == {"loss": [(1, 1.0)]}, "a step is recorded whole or not at all"


def test_a_locked_database_is_an_error_for_people(run: RunWriter) -> None:
    run._database.execute("PRAGMA busy_timeout = 0")
    other = sqlite3.connect(run.path / "metrics.db")
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(PlatformError, match=r"Cannot use .*metrics\.db: database is locked"):
        run.record(1, {"loss": 1.0})
    other.close()
    run.record(1, {"loss": 1.0})
    assert run.latest() == {"loss": 1.0}


def test_a_run_is_let_go_even_when_its_end_cannot_be_written_everywhere(run: RunWriter) -> None:
    run._database.execute("DROP TABLE events")
    with pytest.raises(PlatformError, match="no such table"):
        run.finish("failed", "out of memory")
    assert run.status().state == "failed"
    assert "out of memory" in (run.path / "log.txt").read_text()
    run.resume(0).finish("finished")


def test_a_damaged_database_is_named(run: RunWriter) -> None:
    run.finish("finished")
    (run.path / "metrics.db").write_bytes(b"not a database" * 100)
    with pytest.raises(PlatformError, match=r"Cannot use .*metrics\.db: file is not a database"):
        run.latest()


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "status.json"
    write_atomic(target, "first")
    seen: list[str] = []

    def full(descriptor: int) -> None:
        seen.append(target.read_text())
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runs.os, "fsync", full)
    with pytest.raises(PlatformError, match=r"Cannot write .*status\.json: No space left on device"):
        write_atomic(target, "second, and longer")
    assert seen == ["first"]
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]
    assert target.read_text() == "first"
    monkeypatch.undo()
    with target.open() as reader:
        write_atomic(target, b"\x00third")
        assert reader.read() == "first", "who has it open keeps the whole old file"
    assert target.read_bytes() == b"\x00third"


def test_files_are_as_readable_as_the_umask_says(run: RunWriter) -> None:
    umask = os.umask(0)
    os.umask(umask)
    assert (run.path / "status.json").stat().st_mode & 0o777 == 0o666 & ~umask


def test_reading_runs_loads_no_torch() -> None:
    code = "import sys, sae_platform.runs, sae_platform.loggers; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
