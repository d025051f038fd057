"""Documents that can be reached in any order: a list of them, and several such collections in a row."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from itertools import accumulate
from typing import Protocol

Document = tuple[str, str]  # what decides its split, its text


class Documents(Protocol):
    """A finite collection of documents."""

    def __len__(self) -> int: ...

    def take(self, indices: list[int]) -> list[Document]:
        """The documents at these places, in this order."""


class Listed:
    """Documents in memory."""

    def __init__(self, documents: list[Document]) -> None:
        self.documents = documents

    def __len__(self) -> int:
        return len(self.documents)

    def take(self, indices: list[int]) -> list[Document]:
        return [self.documents[index] for index in indices]


class Joined:
    """The documents of several collections, one collection after the other."""

    def __init__(self, parts: list[Documents]) -> None:
        self.parts = parts
        self.ends = list(accumulate(len(part) for part in parts))

    def __len__(self) -> int:
        return self.ends[-1]

    def take(self, indices: list[int]) -> list[Document]:
        by_part: dict[int, list[int]] = defaultdict(list)
        for index in indices:
            by_part[bisect_right(self.ends, index)].append(index)
        found: dict[int, Document] = {}
        for number, members in by_part.items():
            part = self.parts[number]
            start = self.ends[number] - len(part)
            found.update(zip(members, part.take([index - start for index in members]), strict=True))
        return [found[index] for index in indices]
