"""A stream in a thread of its own: the same items, and nothing left behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from sae_platform.ahead import ahead

WAIT = 60  # seconds until a test is given up


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "activations"]


@pytest.mark.parametrize("depth", [1, 3])
def test_the_items_come_in_their_order_and_the_thread_ends(depth: int) -> None:
    assert list(ahead(iter(range(100)), depth)) == list(range(100))
    assert threads() == []


def test_an_error_comes_after_the_items_before_it() -> None:
    def stream() -> Iterator[int]:
        yield from (1, 2)
        raise ValueError("spoilt")

    items = ahead(stream())
    assert [next(items), next(items)] == [1, 2]
    with pytest.raises(ValueError, match="spoilt"):
        next(items)
    assert threads() == []


def test_it_works_while_its_reader_does_something_else_but_not_further_than_its_depth() -> None:
    made: list[int] = []
    third = threading.Event()

    def stream() -> Iterator[int]:
        for number in range(100):
            made.append(number)
            if number == 3:
                third.set()
            yield number

    items = ahead(stream(), depth=2)
    assert next(items) == 0
    assert third.wait(WAIT)  # 1 and 2 lie ready, and 3 is in hand
    assert made == [0, 1, 2, 3]
    items.close()  # type: ignore[attr-defined]
    assert threads() == []


def test_nothing_starts_before_the_first_item_is_asked_for() -> None:
    ahead(iter([1]))
    assert threads() == []
