from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from sae_platform import PlatformError, TokenPolicy
from sae_platform_transformers import TransformersSourceConfig
from sae_platform_transformers.contexts import Packing

BOS, EOS = 0, 1


@pytest.fixture
def build(model_folder: Any, text_file: Path) -> Any:
    def _build(special: str = "bos eos", seed: int = 0, **settings: Any) -> Any:
        settings = {"model": str(model_folder(special=special)), "dataset": str(text_file), "batch_size": 8} | settings
        return TransformersSourceConfig(**{"context_size": 12} | settings).build(seed)

    return _build


def packed(size: int, bos: int | None, separator: int | None, *documents: list[int]) -> list[list[int]]:
    return list(Packing(size, bos, separator, ()).windows(documents))


def test_documents_are_joined_by_the_separator_behind_a_bos() -> None:
    assert packed(4, BOS, EOS, [3, 4], [5, 6, 7, 8], [9]) == [[BOS, 3, 4, EOS], [BOS, 5, 6, 7], [BOS, 8, EOS, 9]]


def test_documents_can_be_joined_without_anything() -> None:
    assert packed(3, None, None, [3, 4], [5, 6, 7, 8], [9, 9]) == [[3, 4, 5], [6, 7, 8]]


def test_a_separator_that_is_the_bos_is_not_doubled() -> None:
    assert packed(3, BOS, BOS, [3, 4], [5, 6], [7]) == [[BOS, 3, 4], [BOS, 5, 6], [BOS, 7, BOS]]
    assert packed(3, BOS, BOS, [3], [4, 5], [BOS, 6]) == [[BOS, 3, BOS], [BOS, 4, 5], [BOS, 6, BOS]]


def test_an_incomplete_context_is_dropped() -> None:
    assert packed(5, BOS, EOS, [3, 4]) == []


def test_contexts_of_a_file_have_the_layout_of_their_policy(build: Any, tmp_path: Path) -> None:
    file = tmp_path / "alphabet.txt"
    file.write_text("a b c\n\nd e\n \n\nf\n\n\n")
    source = build(dataset=str(file), context_size=4)
    source.texts.documents = lambda split, epoch: iter(["a b c", "d e", "f"])
    (contexts,) = source.contexts("train")
    assert contexts.tokens.tolist() == [[0, 3, 4, 5], [0, 1, 6, 7], [0, 1, 8, 1]]
    assert contexts.kept.tolist() == [
        [False, True, True, True],
        [False, False, True, True],
        [False, False, True, False],
    ]


def test_special_tokens_count_when_the_policy_says_so(build: Any) -> None:
    source = build(token_policy=TokenPolicy(exclude_special_tokens=False))
    assert all(contexts.kept.all() for contexts in source.contexts("train"))


def test_harvested_rows_are_the_kept_activations_with_their_tokens(build: Any) -> None:
    source = build()
    contexts, batch = next(source.contexts("train")), next(source.harvest("train"))
    assert torch.equal(batch.x, source.activations(contexts.tokens)[contexts.kept])
    assert torch.equal(batch.tokens, contexts.tokens[contexts.kept])
    assert torch.equal(batch.positions, contexts.kept.nonzero()[:, 1])
    assert batch.tokens.min() > 2
    assert batch.positions.min() == 1


def test_batches_are_full_but_the_last(build: Any) -> None:
    sizes = [len(contexts.tokens) for contexts in build().contexts("train")]
    assert set(sizes[:-1]) == {8}
    assert 0 < sizes[-1] <= 8


def test_a_start_skips_exactly_that_many_batches_without_running_the_model(build: Any) -> None:
    source = build()
    ran: list[int] = []
    source.model.register_forward_pre_hook(lambda *_: ran.append(1))
    source.model.transformer.register_forward_pre_hook(lambda *_: ran.append(1))
    wanted = next(islice(source.harvest("train", epoch=1), 5, None))
    ran.clear()
    found = next(source.harvest("train", epoch=1, start=5))
    assert len(ran) == 1
    assert torch.equal(found.x, wanted.x)
    assert torch.equal(found.tokens, wanted.tokens)
    assert list(source.contexts("train", start=10_000)) == []


def test_the_order_depends_on_seed_and_epoch_alone(build: Any) -> None:
    def first(seed: int, epoch: int) -> list[list[int]]:
        return next(build(seed=seed).contexts("train", epoch)).tokens.tolist()

    assert first(0, 0) == first(0, 0)
    assert first(3, 2) == first(3, 2)
    orders = [first(0, 0), first(0, 1), first(1, 0)]
    assert all(a != b for number, a in enumerate(orders) for b in orders[:number])


def test_a_bos_the_tokenizer_lacks_is_not_replaced_silently(build: Any) -> None:
    with pytest.raises(PlatformError, match=r"prepend_bos is true, but the tokenizer has no bos token; set"):
        build(special="eos")
    source = build(special="eos", token_policy=TokenPolicy(prepend_bos=False))
    assert BOS not in next(source.contexts("train")).tokens


def test_a_separator_the_tokenizer_lacks_is_not_replaced_silently(build: Any) -> None:
    with pytest.raises(PlatformError, match='separator is "eos", but the tokenizer has no eos token; choose another'):
        build(special="bos")
    source = build(special="bos", token_policy=TokenPolicy(separator="none"))
    assert next(source.contexts("train")).tokens[:, 1:].min() > 1


def test_the_policy_knows_the_context_size() -> None:
    assert TransformersSourceConfig(context_size=64).token_policy.context_size == 64
    with pytest.raises(ValidationError, match="context_size is 32 here and 64 in the source; give it once"):
        TransformersSourceConfig(context_size=64, token_policy=TokenPolicy(context_size=32))
    with pytest.raises(ValidationError, match="no room for text"):
        TransformersSourceConfig(context_size=1)
