"""The run directory: what a run leaves on disk, and all that anything else knows of it."""

from __future__ import annotations

import json
import math
import os
import re
import socket
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any, Literal, NamedTuple
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sae_platform.errors import PlatformError, choices, nearest

Ending = Literal["finished", "interrupted", "failed"]
State = Literal["running", "finished", "interrupted", "failed", "stopped"]
HEARTBEAT_SECONDS = 1.0  # status.json is written no more often
SILENCE_SECONDS = 300.0  # after so long without a heartbeat a run on another host counts as stopped
BUSY_SECONDS = 30.0  # how long another program may lock metrics.db

_SCHEMA = """
CREATE TABLE IF NOT EXISTS metrics(step INTEGER, name TEXT, value REAL, PRIMARY KEY(step, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS events(time REAL, step INTEGER, level TEXT, text TEXT);
"""


class RunStatus(BaseModel):
    """How far a run is. "stopped" is never written: it is what a running one becomes whose process is gone."""

    model_config = ConfigDict(frozen=True)

    state: State
    pid: int = 0
    host: str = ""
    started: float = Field(default=0.0, description="seconds since 1970")
    heartbeat: float = Field(default=0.0, description="seconds since 1970")
    step: int = 0
    tokens: int = 0
    total_tokens: int | None = None
    message: str = ""


class Event(NamedTuple):
    """Something that happened in a run; time in seconds since 1970."""

    time: float
    step: int
    level: str
    text: str


class RunDirectory:
    """A run as it is on disk. Reading needs no lock and disturbs no writer."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints_path = path / "checkpoints"
        self.sae_path = path / "sae"
        self.run_toml = path / "run.toml"

    @property
    def name(self) -> str:
        return self.path.name

    @staticmethod
    def create(
        root: Path, name: str | None, run_toml: str, default_name: str, total_tokens: int | None = None
    ) -> RunWriter:
        """A new run at `<root>/<name>`, or `<root>/<default_name>-<date>-<time>`; `run_toml` is its resolved config.

        PlatformError when the name is taken, is no folder's name, or the folder cannot be made.
        """
        path = _make_folder(root, name, default_name)
        write_atomic(path / "run.toml", run_toml)
        now = time.time()
        return RunWriter(path, RunStatus(state="running", started=now, total_tokens=total_tokens))

    def resume(self, step: int) -> RunWriter:
        """Write on after the checkpoint of `step`: what was recorded beyond it is deleted, to be recorded again.

        PlatformError while another process writes to the run.
        """
        writer = RunWriter(self.path, self._written_status().model_copy(update={"step": step}))
        writer._forget(after=step)
        return writer

    def status(self) -> RunStatus:
        """The run's status. An unreadable one is shown as stopped, so that one damaged run does not hide the others."""
        try:
            status = self._written_status()
        except PlatformError as error:
            return RunStatus(state="stopped", message=str(error))
        gone = status.state == "running" and not _is_alive(self.path, status)
        return status.model_copy(update={"state": "stopped"}) if gone else status

    def is_alive(self) -> bool:
        """Whether a process is writing to the run: by its lock on this host, by the age of its heartbeat on another."""
        return self.status().state == "running"

    def metrics(self, name: str | None = None, after: int = -1) -> dict[str, list[tuple[int, float]]]:
        """(step, value) of each metric, or of one, in the order of the steps beyond `after`."""
        found: dict[str, list[tuple[int, float]]] = {}
        condition, values = ("AND name = ?", (after, name)) if name else ("", (after,))
        query = f"SELECT step, name, value FROM metrics WHERE step > ? {condition} ORDER BY step"
        for step, metric, value in self._read(query, values):
            found.setdefault(metric, []).append((step, _number(value)))
        return found

    def latest(self) -> dict[str, float]:
        """The last value of each metric."""
        rows = self._read("SELECT name, value, MAX(step) FROM metrics GROUP BY name")
        return {name: _number(value) for name, value, _ in rows}

    def events(self) -> list[Event]:
        """What happened, oldest first."""
        return [Event(*row) for row in self._read("SELECT time, step, level, text FROM events ORDER BY rowid")]

    def checkpoints(self) -> list[Path]:
        """The complete checkpoints, oldest first."""
        folders = [file.parent for file in self.checkpoints_path.glob("step-*/manifest.json")]
        complete = [folder for folder in folders if re.fullmatch(r"step-\d{8,}", folder.name)]
        return sorted(complete, key=lambda folder: int(folder.name.removeprefix("step-")))

    def evaluation(self) -> dict[str, Any] | None:
        """evaluation.json, if there is one. PlatformError when it cannot be read."""
        path = self.path / "evaluation.json"
        try:
            found: dict[str, Any] = json.loads(path.read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise PlatformError(
                f"Cannot read {path}: {error}. This measures again: sae-platform evaluate {self.path}"
            ) from error
        return found

    def _written_status(self) -> RunStatus:
        path = self.path / "status.json"
        try:
            return RunStatus.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise PlatformError(f"{self.path} is not a run, or damaged: cannot read status.json ({error}).") from error

    def _read(self, query: str, values: tuple[object, ...] = ()) -> list[Any]:
        path = self.path / "metrics.db"
        if not path.exists():
            return []
        with _explained(path), closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            return database.execute(query, values).fetchall()


class RunWriter(RunDirectory):
    """The one process that writes to a run, from `create` or `resume` until `finish`.

    Every call is one transaction. When metrics.db cannot be written (disk full, locked by another program for
    BUSY_SECONDS), the call raises PlatformError with the file and the reason; what was recorded before stays whole.
    """

    def __init__(self, path: Path, status: RunStatus) -> None:
        super().__init__(path)
        with ExitStack() as undo:
            self._lock = _lock(path)
            undo.callback(os.close, self._lock)
            with _explained(path / "metrics.db"):
                self._database = sqlite3.connect(path / "metrics.db", timeout=BUSY_SECONDS, check_same_thread=False)
                undo.callback(self._database.close)
                self._database.execute("PRAGMA journal_mode = WAL")
                self._database.execute("PRAGMA synchronous = NORMAL")
                self._database.executescript(_SCHEMA)
            self._status = status
            self._save(state="running", message="", pid=os.getpid(), host=socket.gethostname())
            undo.pop_all()

    def record(self, step: int, metrics: Mapping[str, float]) -> None:
        """Keep the metrics of a step, in place of what it already has under a name.

        A NaN is a row whose value is NULL, as SQLite has no other, and is read back as NaN; infinities stay.
        """
        rows = [(step, name, float(value)) for name, value in metrics.items()]
        with _explained(self.path / "metrics.db"), self._database:
            self._database.executemany("INSERT OR REPLACE INTO metrics VALUES (?, ?, ?)", rows)

    def event(self, text: str, level: str = "info") -> None:
        """Keep something that happened, in log.txt and in the database."""
        now = time.time()
        stamp = datetime.fromtimestamp(now).astimezone().isoformat(timespec="seconds")
        with _explained(self.path / "log.txt"), (self.path / "log.txt").open("a", encoding="utf-8") as log:
            log.write(f"{stamp} {level.upper()} {text}\n")
        with _explained(self.path / "metrics.db"), self._database:
            self._database.execute("INSERT INTO events VALUES (?, ?, ?, ?)", (now, self._status.step, level, text))

    def heartbeat(self, step: int, tokens: int) -> None:
        """Say that the run is alive and how far; cheap enough for every step, written once in HEARTBEAT_SECONDS."""
        self._status = self._status.model_copy(update={"step": step, "tokens": tokens})
        if abs(time.time() - self._status.heartbeat) >= HEARTBEAT_SECONDS:
            self._save()

    def finish(self, state: Ending, message: str = "") -> None:
        """Say how the run ended and let go of it, even when not all of that can be written."""
        with ExitStack() as ending:
            ending.callback(os.close, self._lock)
            ending.callback(self._database.close)
            ending.callback(self._save, state=state, message=message)
            self.event(f"{state}: {message}" if message else state, "error" if state == "failed" else "info")
            # One plain file can also be read from a folder without write permission; a reader may stand in the way.
            with suppress(sqlite3.OperationalError):
                self._database.execute("PRAGMA journal_mode = DELETE")

    def _forget(self, after: int) -> None:
        with _explained(self.path / "metrics.db"), self._database:
            self._database.execute("DELETE FROM metrics WHERE step > ?", (after,))

    def _save(self, **changes: object) -> None:
        self._status = self._status.model_copy(update={**changes, "heartbeat": time.time()})
        write_atomic(self.path / "status.json", self._status.model_dump_json(indent=2))


def list_runs(root: Path) -> list[RunDirectory]:
    """The runs in a folder, newest first; other folders are left out."""
    runs = [RunDirectory(path) for path in root.iterdir() if _is_run(path)] if root.is_dir() else []
    return sorted(runs, key=lambda run: (run.status().started, run.name), reverse=True)


def find_run(root: Path, name: str) -> RunDirectory:
    """The run of that name. PlatformError with the nearest name when there is none."""
    if Path(name).name == name and _is_run(root / name):
        return RunDirectory(root / name)
    known = [run.name for run in list_runs(root)]
    raise PlatformError(f"There is no run {name!r} in {root}.{nearest(name, known)} Runs: {choices(known)}.")


def write_atomic(path: Path, content: str | bytes) -> None:
    """Replace a file whole or not at all, whenever the process dies. PlatformError when it cannot be written."""
    temporary = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        with temporary.open("xb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise PlatformError(f"Cannot write {path}: {error.strerror}.") from error
    finally:
        temporary.unlink(missing_ok=True)


def _make_folder(root: Path, name: str | None, default_name: str) -> Path:
    wanted = f"{default_name}-{datetime.now():%Y%m%d-%H%M%S}" if name is None else name
    if Path(wanted).name != wanted or wanted in ("", ".."):
        raise PlatformError(f"{wanted!r} cannot be the name of a run: it must be the name of one folder in {root}.")
    for number in count(1):
        path = root / (wanted if number == 1 else f"{wanted}-{number}")
        try:
            path.mkdir(parents=True)
            break
        except FileExistsError as error:
            if name is not None:
                raise PlatformError(
                    f"There already is a run {name!r} in {root}. Choose another name, or leave it out."
                ) from error
        except OSError as error:
            raise PlatformError(f"Cannot make the run's folder {path}: {error.strerror}.") from error
    return path


def _lock(path: Path) -> int:
    """An open file that holds the run's lock; the system lets go of it when the process ends, however it ends."""
    import fcntl  # not on Windows, where runs can be read

    with _explained(path / ".lock"):
        lock = os.open(path / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.read(lock, 1000).decode()
            os.close(lock)
            raise PlatformError(f"{path} is being written by {owner}. Wait for it or stop it first.") from error
        os.ftruncate(lock, 0)
        os.write(lock, f"process {os.getpid()} on {socket.gethostname()}".encode())
    return lock


def _is_run(path: Path) -> bool:
    return (path / "run.toml").is_file() and (path / "status.json").is_file()


def _is_alive(path: Path, status: RunStatus) -> bool:
    """Whether the run's lock is held, which ends with its process whatever becomes of the process's number."""
    if status.host != socket.gethostname() or os.name != "posix":
        return time.time() - status.heartbeat < SILENCE_SECONDS
    import fcntl

    try:
        with (path / ".lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no lock, or none that may be read
        return time.time() - status.heartbeat < SILENCE_SECONDS
    return False


def _number(value: float | None) -> float:
    return math.nan if value is None else value


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """What goes wrong with a file, as words for people."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise PlatformError(
            f"Cannot use {path}: {error}. Is the disk full, or the file damaged or locked by another program?"
        ) from error
