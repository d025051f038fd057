"""Text to contexts: tokenize documents, join them by the separator and cut the stream into equal pieces."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from sae_platform.components import TokenPolicy
from sae_platform.errors import PlatformError

CHARACTERS_AT_ONCE = 1 << 18
DOCUMENTS_AT_ONCE = 64


@dataclass(frozen=True)
class Packing:
    """A token policy in the ids of one tokenizer."""

    size: int
    bos: int | None
    separator: int | None
    special: tuple[int, ...]

    @classmethod
    def of(cls, policy: TokenPolicy, tokenizer: Any, size: int) -> Packing:
        """Look up the tokens the policy names. PlatformError for one the tokenizer lacks."""
        bos = eos = None
        if policy.prepend_bos:
            bos = _token(tokenizer, "bos", "token_policy.prepend_bos is true", "set token_policy.prepend_bos = false")
        if policy.separator != "none":
            asked = f'token_policy.separator is "{policy.separator}"'
            eos = _token(tokenizer, policy.separator, asked, 'choose another: "eos", "bos" or "none"')
        special = tuple(tokenizer.all_special_ids) if policy.exclude_special_tokens else ()
        return cls(size, bos, eos, special)

    def windows(self, documents: Iterable[list[int]]) -> Iterator[list[int]]:
        """Contexts of exactly `size` tokens; the incomplete last one is dropped.

        A beginning-of-sequence token at the front of a piece of the stream gives way to the one put before it: where it
        is the separator too, a document that ends with a context would otherwise double it.
        """
        head = [] if self.bos is None else [self.bos]
        tail = [] if self.separator is None else [self.separator]
        body = self.size - len(head)
        stream: list[int] = []
        for ids in documents:
            stream += ids + tail
            start = self._after_bos(stream, 0)
            while len(stream) - start >= body:
                yield head + stream[start : start + body]
                start = self._after_bos(stream, start + body)
            del stream[:start]

    def _after_bos(self, stream: list[int], start: int) -> int:
        while start < len(stream) and stream[start] == self.bos:
            start += 1
        return start


def tokenized(tokenizer: Any, texts: Iterable[str]) -> Iterator[list[int]]:
    """Token ids of each text, without special tokens added."""
    for batch in _batches(texts):
        yield from tokenizer(
            batch, add_special_tokens=False, return_attention_mask=False, return_token_type_ids=False, verbose=False
        )["input_ids"]


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    characters = 0
    for text in texts:
        batch.append(text)
        characters += len(text)
        if characters >= CHARACTERS_AT_ONCE or len(batch) == DOCUMENTS_AT_ONCE:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _token(tokenizer: Any, name: str, asked: str, fix: str) -> int:
    token = getattr(tokenizer, f"{name}_token_id")
    if token is None:
        raise PlatformError(f"{asked}, but the tokenizer has no {name} token; {fix}.")
    return int(token)
