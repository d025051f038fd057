"""The shuffle buffer: every row once, well mixed, in bounded memory, continued exactly."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from sae_platform.activations import Batch
from sae_platform.buffer import ShuffleBuffer, capacity_of
from sae_platform.errors import PlatformError


def harvest(sizes: Sequence[int], dtype: torch.dtype = torch.float32) -> list[Batch]:
    """Batches of the given sizes; row i is [i, -i], its token i + 7 and its position i + 9."""
    numbers = torch.arange(sum(sizes)).split(list(sizes))
    return [Batch(torch.stack([n, -n], 1).to(dtype), n + 7, n + 9) for n in numbers]


def numbers(batches: Sequence[Batch]) -> Tensor:
    """Which rows were served, in order."""
    return torch.cat([torch.empty(0), *(batch.x[:, 0] for batch in batches)]).long()


def serve(rows: int, capacity: int, batch_size: int, seed: int, harvest_size: int = 50) -> Tensor:
    sizes = [min(harvest_size, rows - start) for start in range(0, rows, harvest_size)]
    return numbers(list(ShuffleBuffer(iter(harvest(sizes)), capacity, batch_size, seed)))


@given(st.lists(st.integers(0, 40), max_size=8), st.integers(1, 50), st.data())
@settings(deadline=None, max_examples=100)
def test_every_row_is_served_once_with_its_token_and_position(
    sizes: list[int], capacity: int, data: st.DataObject
) -> None:
    batch_size = data.draw(st.integers(1, capacity))
    buffer = ShuffleBuffer(iter(harvest(sizes)), capacity, batch_size, seed=3)
    batches = list(buffer)

    served = numbers(batches)
    assert torch.equal(served.sort().values, torch.arange(sum(sizes)))
    assert all(len(batch.x) == batch_size for batch in batches[:-1])
    assert all(1 <= len(batch.x) <= batch_size for batch in batches[-1:])
    for batch in batches:
        number = batch.x[:, 0].long()
        assert batch.tokens is not None
        assert batch.positions is not None
        assert torch.equal(batch.x[:, 1].long(), -number)
        assert torch.equal(batch.tokens, number + 7)
        assert torch.equal(batch.positions, number + 9)
    assert (buffer.rows, buffer.served, buffer.batches) == (sum(sizes), sum(sizes), len(sizes))
    assert next(buffer, None) is None


def test_the_order_is_a_function_of_the_seed_alone() -> None:
    torch.manual_seed(1)
    once = serve(400, capacity=100, batch_size=10, seed=5)
    torch.manual_seed(2)
    assert torch.equal(once, serve(400, capacity=100, batch_size=10, seed=5))
    assert torch.equal(once, serve(400, capacity=100, batch_size=10, seed=5, harvest_size=33))
    assert not torch.equal(once, serve(400, capacity=100, batch_size=10, seed=6))


def test_seeds_that_share_their_low_32_bits_differ() -> None:
    assert not torch.equal(serve(100, 100, 10, seed=1), serve(100, 100, 10, seed=1 + 2**32))


def test_a_stream_that_fits_is_permuted_uniformly() -> None:
    """Chi-square over (row, place), 15 x 15 degrees of freedom, at six standard deviations."""
    seeds, rows = 800, 16
    counts = torch.zeros(rows, rows)
    for seed in range(seeds):
        counts[serve(rows, capacity=rows, batch_size=4, seed=seed), torch.arange(rows)] += 1
    expected = seeds / rows
    freedom = (rows - 1) ** 2
    assert float(((counts - expected) ** 2 / expected).sum()) < freedom + 6 * (2 * freedom) ** 0.5


def test_what_remains_of_an_ended_stream_is_one_round() -> None:
    buffer = ShuffleBuffer(iter(harvest([90])), 100, 10, seed=0)
    for _ in range(9):
        next(buffer)
    assert int(buffer.state()["round"]) == 1


def test_a_row_is_served_in_each_round_with_probability_one_half() -> None:
    """So the rounds that a row waits are geometric; a permutation that repeats, or one that favours slots, is not."""
    capacity, batch_size = 1024, 64
    half = capacity // 2
    served = serve(capacity * 40, capacity, batch_size, seed=11, harvest_size=100)
    round_served = torch.empty(len(served), dtype=torch.int64)
    round_served[served] = torch.arange(len(served)) // half
    arrived = torch.arange(capacity, capacity * 30)
    waited = round_served[arrived] - (arrived - capacity) // half
    assert int(waited.min()) == 1
    counts = waited.clamp(max=6).bincount(minlength=7)[1:].double()
    expected = torch.tensor([1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 32], dtype=torch.float64) * len(arrived)
    assert float(((counts - expected) ** 2 / expected).sum()) < 5 + 6 * 10**0.5


def test_rows_that_arrive_together_are_served_apart() -> None:
    """Within a batch, the places in the stream are as spread as rows that waited in the ring can be."""
    served = serve(20_000, capacity=2000, batch_size=100, seed=0, harvest_size=100)
    harvests = served[2000:15_000].view(-1, 100) // 100
    neighbours = torch.stack([(row.bincount() ** 2).sum() for row in harvests]).double().mean() / 100**2
    assert float(neighbours) < 0.05  # unshuffled: 1


def test_rows_keep_their_dtype_and_absent_columns_stay_absent() -> None:
    stream = [Batch(batch.x) for batch in harvest([30, 30], torch.bfloat16)]
    batches = list(ShuffleBuffer(iter(stream), 20, 8, seed=0))
    assert {batch.x.dtype for batch in batches} == {torch.bfloat16}
    assert all(batch.tokens is None and batch.positions is None for batch in batches)


def test_rows_of_any_shape_are_shuffled_without_their_gradients() -> None:
    x = torch.randn(40, 3, 5, requires_grad=True)
    batches = list(ShuffleBuffer(iter([Batch(x)]), 16, 8, seed=0))
    assert all(batch.x.shape == (8, 3, 5) and not batch.x.requires_grad for batch in batches)
    assert torch.equal(
        torch.cat([b.x for b in batches]).sum((1, 2)).sort().values, x.detach().sum((1, 2)).sort().values
    )


def test_a_served_batch_is_a_copy() -> None:
    kept, spoilt = (ShuffleBuffer(iter(harvest([25] * 8)), 40, 10, seed=4) for _ in range(2))
    for batch, victim in zip(kept, spoilt, strict=True):
        assert torch.equal(batch.x, victim.x)
        victim.x.fill_(-1)


def test_harvesting_keeps_pace_with_serving() -> None:
    pulled = 0

    def stream() -> Iterator[Batch]:
        nonlocal pulled
        for batch in harvest([30] * 40):
            pulled += len(batch.x)
            yield batch

    buffer = ShuffleBuffer(stream(), capacity=200, batch_size=20, seed=0)
    for number in range(40):
        next(buffer)
        held = 200 + 20 * number
        assert held <= pulled < held + 30, "just what is needed to have a full ring before each batch"
        assert buffer.rows == pulled
        assert buffer.served == 20 * (number + 1)


SIZES = [30, 0, 45, 7, 60, 28, 30]


def until_error(buffer: ShuffleBuffer) -> Iterator[Batch]:
    with contextlib.suppress(OSError):
        yield from buffer


def continued(buffer: ShuffleBuffer, state: dict[str, Tensor]) -> ShuffleBuffer:
    other = ShuffleBuffer(iter(harvest(SIZES)[int(state["batches"]) :]), 50, 8, seed=9)
    other.load_state(state)
    assert (other.served, other.rows, other.batches) == (buffer.served, buffer.rows, buffer.batches)
    return other


@pytest.mark.parametrize("served", range(27))
def test_a_saved_buffer_continues_to_the_same_bits(served: int, tmp_path: Path) -> None:
    """Saved before the first fill, inside and between rounds, while draining and when empty."""
    buffer = ShuffleBuffer(iter(harvest(SIZES)), 50, 8, seed=9)
    for _ in range(served):
        next(buffer, None)
    save_file(buffer.state(), tmp_path / "state.safetensors")
    restored = continued(buffer, load_file(tmp_path / "state.safetensors"))

    expected = list(buffer)
    assert len(expected) == max(25 - served, 0)
    for ours, theirs in zip(restored, expected, strict=True):
        for name in ("x", "tokens", "positions"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name))


def test_a_state_can_seed_several_buffers() -> None:
    buffer = ShuffleBuffer(iter(harvest(SIZES)), 50, 8, seed=9)
    for _ in range(6):
        next(buffer)
    state = {name: tensor.clone() for name, tensor in buffer.state().items()}
    first = numbers(list(continued(buffer, state)))
    assert torch.equal(first, numbers(list(continued(buffer, state))))


def test_the_state_is_the_ring_itself_and_not_a_second_one() -> None:
    buffer = ShuffleBuffer(iter(harvest([40, 40])), 50, 8, seed=9)
    next(buffer)
    first, second = buffer.state(), buffer.state()
    assert first["ring.x"].data_ptr() == second["ring.x"].data_ptr()


def test_rows_that_are_not_contiguous_can_be_saved(tmp_path: Path) -> None:
    buffer = ShuffleBuffer(iter([Batch(torch.randn(6, 40).T)]), 16, 8, seed=0)
    next(buffer)
    save_file(buffer.state(), tmp_path / "state.safetensors")
    assert load_file(tmp_path / "state.safetensors")["pending.x"].shape == (24, 6)


@pytest.mark.parametrize(("name", "value"), [("capacity", 51), ("batch_size", 9), ("seed", 10)])
def test_a_state_saved_with_other_settings_is_refused(name: str, value: int) -> None:
    saved = {"capacity": 50, "batch_size": 8, "seed": 9}
    state = ShuffleBuffer(iter([]), **saved).state()
    with pytest.raises(PlatformError, match=f"{name} {saved[name]}, but this run asks for {value}"):
        ShuffleBuffer(iter([]), **(saved | {name: value})).load_state(state)


def test_an_error_of_the_stream_passes_through_and_costs_no_row() -> None:
    def failing() -> Iterator[Batch]:
        yield from harvest(SIZES)[:3]
        raise OSError("disk gone")

    buffer = ShuffleBuffer(failing(), 50, 8, seed=9)
    served = list(until_error(buffer))
    assert 0 < len(numbers(served)) < 75
    served += continued(buffer, buffer.state())
    assert torch.equal(numbers(served), numbers(list(ShuffleBuffer(iter(harvest(SIZES)), 50, 8, seed=9))))


@pytest.mark.parametrize("change", [{"tokens": None}, {"x": torch.zeros(5, 3)}, {"tokens": torch.zeros(4).long()}])
def test_a_batch_unlike_the_first_is_refused(change: dict[str, Tensor | None]) -> None:
    first, second = harvest([5, 5])
    with pytest.raises(PlatformError, match="Batch 1 of the activation source does not match its first one"):
        list(ShuffleBuffer(iter([first, replace(second, **change)]), 8, 2, seed=0))


def test_a_buffer_smaller_than_a_batch_is_refused_with_both_numbers() -> None:
    with pytest.raises(PlatformError, match=r"100 rows cannot serve batches of 4,096 rows.*at least 8,192 rows"):
        ShuffleBuffer(iter([]), capacity=100, batch_size=4096, seed=0)


def resident(name: str) -> int:
    """Bytes of this process's memory now (VmRSS) or at its peak (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="resets the peak of the memory by /proc")
def test_the_peak_is_within_a_tenth_of_the_ring() -> None:
    def serve_all(capacity: int) -> None:
        stream = (Batch(torch.ones(500, 508, dtype=torch.bfloat16), torch.ones(500).long()) for _ in range(200))
        buffer = ShuffleBuffer(stream, capacity, 1000, seed=0)
        for _ in buffer:
            buffer.state()

    serve_all(2000)
    nominal = 50_000 * (508 * 2 + 8)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    serve_all(50_000)
    assert 0.9 < (resident("VmHWM") - before) / nominal <= 1.1


@pytest.mark.parametrize(
    ("size", "rows"),
    [
        ("2GB", 2_000_000),
        ("512 MB", 512_000),
        ("1.5 gb", 1_500_000),
        ("1GiB", 2**30 // 1000),
        ("131_072 tokens", 131_072),
        ("131072", 131_072),
        (" 1 token ", 1),
        (4096, 4096),
    ],
)
def test_a_size_is_bytes_or_tokens(size: str | int, rows: int) -> None:
    assert capacity_of(size, row_bytes=1000) == rows


@pytest.mark.parametrize(
    "size", ["", "GB", "2 GBytes", "-1GB", "many", "999 B", "0.5 KB", "0", 0, -5, "1.5 tokens", "_"]
)
def test_a_size_that_means_no_rows_is_refused_with_examples(size: str | int) -> None:
    with pytest.raises(PlatformError, match=r'"2GB" or "512MB", or tokens, like "131_072 tokens" or 131072'):
        capacity_of(size, row_bytes=1000)
