"""Shuffle a stream of activations in bounded memory, with a state that can be saved and continued exactly."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

import torch
from torch import Tensor

from sae_platform.activations import Batch
from sae_platform.errors import PlatformError

_UNITS = {"kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}


@dataclass
class _Position:
    """Where a buffer stands. Of a round's order, slots [:filled] were served and refilled, [filled:cursor] are free and
    [cursor:] are still to be served."""

    cursor: int
    limit: int  # the round ends here
    filled: int = 0
    round: int = 0
    ended: bool = False  # the stream, not the buffer
    batches: int = 0
    rows: int = 0
    served: int = 0


class ShuffleBuffer:
    """Serves every row of a stream once, shuffled, in batches of `batch_size` rows; only the last may be smaller.

    Rows lie in a ring of `capacity` slots that is allocated once, in their own dtype and on their own device. A round
    draws a permutation of the slots from (seed, round) and serves its first half, or all of it once the stream has
    ended. What a batch freed is refilled from the stream before the next batch, so harvesting keeps pace with serving.
    The memory is the ring, one harvest batch, and at most 12 bytes a slot for the permutations.
    """

    def __init__(self, stream: Iterator[Batch], capacity: int, batch_size: int, seed: int) -> None:
        """PlatformError when a batch does not fit into `capacity` rows."""
        if not 1 <= batch_size <= capacity:
            raise PlatformError(
                f"A shuffle buffer of {capacity:,} rows cannot serve batches of {batch_size:,} rows. "
                f"Make the buffer at least {2 * max(batch_size, 1):,} rows (two batches), or the batches smaller."
            )
        self._stream = stream
        self._settings = {"capacity": capacity, "batch_size": batch_size, "seed": seed}
        self._capacity, self._batch_size, self._seed = capacity, batch_size, seed
        self._ring: dict[str, Tensor] = {}
        self._pending: dict[str, Tensor] = {}  # what the ring had no room for of the last harvest batch
        self._order = torch.arange(capacity, dtype=torch.int32)
        self._at = _Position(cursor=capacity, limit=capacity)

    @property
    def batches(self) -> int:
        """How many batches were taken from the stream; a stream to continue with begins at this number."""
        return self._at.batches

    @property
    def rows(self) -> int:
        """How many rows were taken from the stream."""
        return self._at.rows

    @property
    def served(self) -> int:
        """How many rows were served."""
        return self._at.served

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        """The next batch, a copy of its rows. What the stream raises passes through; the state can still be saved."""
        self._refill()
        at = self._at
        if at.cursor == at.limit:
            self._start_round()
        slots = self._order[at.cursor : min(at.cursor + self._batch_size, at.limit)]
        if not len(slots):
            raise StopIteration
        rows = {name: ring.index_select(0, slots.to(ring.device)) for name, ring in self._ring.items()}
        at.cursor += len(slots)
        at.served += len(slots)
        return Batch(**rows)

    def close(self) -> None:
        """Close the stream, where it can be closed."""
        if isinstance(self._stream, Generator):
            self._stream.close()

    def state(self) -> dict[str, Tensor]:
        """Everything further batches depend on besides the stream, as tensors that safetensors can hold.

        `ring.*` [rows, ...] is the buffer's own memory, not a copy: write or clone it before the next batch.
        """
        written = min(self._capacity, self._at.rows - _length(self._pending))
        return {
            **{f"ring.{name}": ring[:written] for name, ring in self._ring.items()},
            **{f"pending.{name}": rows.contiguous().clone() for name, rows in self._pending.items()},
            **{name: torch.tensor(value) for name, value in (self._settings | asdict(self._at)).items()},
            "order": self._order,
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continue from a saved state, which is copied; the ring lies on the device of the saved one.

        The stream must begin at batch number `int(state["batches"])`. PlatformError when the state was saved with
        another capacity, batch size or seed.
        """
        for name, value in self._settings.items():
            if int(state[name]) != value:
                raise PlatformError(
                    f"The saved shuffle buffer has {name} {int(state[name])}, but this run asks for {value}. "
                    f"Continue with {name} {int(state[name])}, or start a new run."
                )
        saved = _below("ring.", state)
        self._allocate(saved)
        for name, rows in saved.items():
            self._ring[name][: len(rows)] = rows
        self._pending = {name: rows.clone() for name, rows in _below("pending.", state).items()}
        self._order = state["order"].to("cpu", copy=True)
        position: dict[str, Any] = {field.name: state[field.name].item() for field in fields(_Position)}
        self._at = _Position(**position)

    def _refill(self) -> None:
        """Put rows of the stream into the free slots, until none is free or the stream has ended."""
        at = self._at
        while at.filled < at.cursor and not at.ended:
            if not self._pending:
                self._harvest()
                continue
            slots = self._order[at.filled : at.cursor][: _length(self._pending)]
            for name, ring in self._ring.items():
                rows = self._pending[name][: len(slots)].to(ring.device)
                ring.index_copy_(0, slots.to(ring.device, torch.int64), rows)
            rest = {name: rows[len(slots) :] for name, rows in self._pending.items()}
            self._pending = rest if _length(rest) else {}
            at.filled += len(slots)

    def _harvest(self) -> None:
        """Take the next batch from the stream."""
        batch = next(self._stream, None)
        if batch is None:
            self._at.ended = True
            return
        given = {field.name: getattr(batch, field.name) for field in fields(Batch)}
        columns = {name: rows.detach() for name, rows in given.items() if isinstance(rows, Tensor)}
        if not self._ring:
            self._allocate(columns)
        for name, ring in self._ring.items():
            rows = columns.get(name)
            expected = (len(batch.x), *ring.shape[1:])
            if rows is None or rows.shape != expected or rows.dtype != ring.dtype:
                found = "missing" if rows is None else f"{list(rows.shape)} {rows.dtype}"
                raise PlatformError(
                    f"Batch {self._at.batches} of the activation source does not match its first one: "
                    f"{name} is {found}, expected {list(expected)} {ring.dtype}. The source must be fixed."
                )
        self._pending = {name: columns[name] for name in self._ring}
        self._at.batches += 1
        self._at.rows += len(batch.x)

    def _allocate(self, columns: dict[str, Tensor]) -> None:
        self._ring = {name: rows.new_empty(self._capacity, *rows.shape[1:]) for name, rows in columns.items()}

    def _start_round(self) -> None:
        """Permute the occupied slots; free ones exist only when the stream has ended, and leave the ring."""
        at = self._at
        self._order = torch.cat([self._order[: at.filled], self._order[at.cursor :]])
        occupied = len(self._order)
        permutation = torch.randperm(occupied, generator=_generator(self._seed, at.round), dtype=torch.int32)
        self._order = self._order.index_select(0, permutation)
        half = max(occupied // 2 // self._batch_size, 1) * self._batch_size
        at.round, at.cursor, at.filled, at.limit = at.round + 1, 0, 0, occupied if at.ended else half


def capacity_of(size: str | int, row_bytes: int) -> int:
    """How many rows of `row_bytes` bytes (all columns together) a size means: bytes ("2GB", "512MiB") or tokens
    ("131_072 tokens", "131072", 131072). PlatformError when it says neither, or no row fits."""
    found = re.fullmatch(r"([\d_]+(?:\.\d+)?)\s*([a-z]*)", str(size).strip().lower())
    number, unit = found.groups() if found and found[1].strip("_") else ("0", "")
    rows = float(number.replace("_", ""))
    if unit in _UNITS:
        rows = rows * _UNITS[unit] // row_bytes
    if unit not in ("", "token", "tokens", *_UNITS) or rows < 1 or rows != int(rows):
        raise PlatformError(
            f"{size!r} is not the size of a shuffle buffer whose rows have {row_bytes:,} bytes. "
            f'Give bytes, like "2GB" or "512MB", or tokens, like "131_072 tokens" or 131072.'
        )
    return int(rows)


def _below(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): rows for name, rows in state.items() if name.startswith(prefix)}


def _length(columns: dict[str, Tensor]) -> int:
    return len(columns["x"]) if columns else 0


def _generator(seed: int, number: int) -> torch.Generator:
    """Randomness for one round. Hashed, because torch's generator on CPU only looks at a seed's low 32 bits."""
    digest = hashlib.blake2b(f"{seed}/{number}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big"))
