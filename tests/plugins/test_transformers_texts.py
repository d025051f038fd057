from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from sae_platform import PlatformError
from sae_platform_transformers import TransformersSourceConfig, tables
from sae_platform_transformers.stdlib import is_held_out, stdlib_documents
from sae_platform_transformers.texts import StreamedTexts, Texts, open_texts

WORDS = [f"document {number}" for number in range(300)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def opened(dataset: Path | str, seed: int = 0, **settings: Any) -> Texts:
    return open_texts(TransformersSourceConfig(dataset=str(dataset), **settings), seed)


def both_splits(texts: Texts) -> list[str]:
    return sorted([*texts.documents("train"), *texts.documents("held_out")])


def write_txt(folder: Path, texts: list[str]) -> Path:
    (folder / "part.txt").write_text("\n\n".join(texts))
    return folder / "part.txt"


def write_jsonl(folder: Path, texts: list[str]) -> Path:
    (folder / "part.jsonl").write_text("\n".join(json.dumps({"text": text, "n": 1}) for text in texts))
    return folder / "part.jsonl"


def write_parquet(folder: Path, texts: list[str]) -> Path:
    datasets.Dataset.from_dict({"text": texts}).to_parquet(folder / "part.parquet")
    return folder / "part.parquet"


def write_saved(folder: Path, texts: list[str]) -> Path:
    datasets.Dataset.from_dict({"text": texts}).save_to_disk(folder / "saved")
    return folder / "saved"


def write_folder(folder: Path, texts: list[str]) -> Path:
    (folder / "mixed" / "inner").mkdir(parents=True)
    (folder / "mixed" / "notes.md").write_text("not read")
    write_txt(folder / "mixed", texts[:100])
    write_jsonl(folder / "mixed" / "inner", texts[100:200])
    write_parquet(folder / "mixed", texts[200:])
    return folder / "mixed"


Writer = Callable[[Path, list[str]], Path]
ALL_KINDS = pytest.mark.parametrize("write", [write_txt, write_jsonl, write_parquet, write_saved, write_folder])


@ALL_KINDS
def test_every_document_is_in_exactly_one_split(write: Writer, tmp_path: Path) -> None:
    texts = opened(write(tmp_path, WORDS))
    assert both_splits(texts) == sorted(WORDS)
    assert sorted(texts.documents("held_out")) == sorted(word for word in WORDS if is_held_out(word))


@ALL_KINDS
def test_training_order_changes_with_seed_and_epoch_and_held_out_order_never(write: Writer, tmp_path: Path) -> None:
    path = write(tmp_path, WORDS)
    texts, again, other = opened(path), opened(path), opened(path, seed=1)
    first = list(texts.documents("train", 0))
    assert first == list(again.documents("train", 0)) != list(other.documents("train", 0))
    assert first != list(texts.documents("train", 1)) == list(again.documents("train", 1))
    assert list(texts.documents("held_out", 0)) == list(other.documents("held_out", 3))


def test_blank_documents_are_left_out(tmp_path: Path) -> None:
    file = tmp_path / "some.jsonl"
    file.write_text("\n".join(json.dumps({"text": text}) for text in ["one", "", " \n", None, "two"]))
    assert both_splits(opened(file)) == ["one", "two"]


def test_a_text_file_is_cut_at_blank_lines(tmp_path: Path) -> None:
    (tmp_path / "some.txt").write_text("one\nmore\n\n  \n\ntwo\n \nthree\n")
    assert both_splits(opened(tmp_path / "some.txt")) == ["one\nmore", "three\n", "two"]


def test_a_split_of_a_saved_dictionary_can_be_chosen(tmp_path: Path) -> None:
    parts = {"train": datasets.Dataset.from_dict({"text": ["a"]}), "test": datasets.Dataset.from_dict({"text": ["b"]})}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "both")
    assert both_splits(opened(tmp_path / "both", dataset_split="test")) == ["b"]
    with pytest.raises(PlatformError, match=r"no split 'tset'\. Did you mean 'test'\? It has: test, train\."):
        opened(tmp_path / "both", dataset_split="tset")


def test_a_stream_is_split_and_shuffled_like_a_file() -> None:
    stream = datasets.Dataset.from_dict({"body": WORDS}).to_iterable_dataset()
    texts, again = StreamedTexts(stream, "body", 0), StreamedTexts(stream, "body", 0)
    first = list(texts.documents("train", 0))
    assert both_splits(texts) == sorted(WORDS)
    assert first == list(again.documents("train", 0)) != list(texts.documents("train", 1))
    assert list(texts.documents("held_out")) == [word for word in WORDS if is_held_out(word)]


@pytest.mark.parametrize("streaming", [True, False])
def test_a_hub_dataset_is_asked_for_as_configured(monkeypatch: pytest.MonkeyPatch, streaming: bool) -> None:
    asked: list[Any] = []

    def load_dataset(*names: Any, **settings: Any) -> Any:
        asked.append((names, settings))
        dataset = datasets.Dataset.from_dict({"body": WORDS})
        return dataset.to_iterable_dataset() if streaming else dataset

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(tables, "hub_is_reachable", lambda: True)
    settings = {"dataset_config": "en", "dataset_split": "all", "streaming": streaming}
    assert both_splits(opened("someone/texts", text_column="body", **settings)) == sorted(WORDS)
    assert asked == [(("someone/texts", "en"), {"split": "all", "streaming": streaming})]
    with pytest.raises(PlatformError, match=r"'someone/texts' has no column 'text'\. It has: body\."):
        opened("someone/texts", **settings)


def test_a_hub_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "hub_is_reachable", lambda: False)
    with pytest.raises(PlatformError, match=r"'nobody/texts' is no local file or folder, and the .* does not answer"):
        opened("nobody/texts")


def test_the_standard_library_is_split_by_path() -> None:
    paths = ["os.py", "asyncio/events.py", "struct.py"]
    assert [is_held_out(path) for path in paths] == [False, False, True]
    assert {path for path, _ in stdlib_documents()} >= {*paths}


def test_a_file_in_another_encoding_is_left_out_of_the_standard_library(tmp_path: Path) -> None:
    (tmp_path / "b.py").write_text("b = 'ä'", encoding="utf-8")
    (tmp_path / "a.py").write_text("a = 'ä'", encoding="latin-1")
    (tmp_path / "site-packages").mkdir()
    shutil.copy(tmp_path / "b.py", tmp_path / "site-packages")
    assert list(stdlib_documents(tmp_path)) == [("b.py", "b = 'ä'")]


def test_a_column_that_is_not_there_is_answered_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(PlatformError, match=r"no column 'txt'\. Did you mean 'text'\? It has: n, text\."):
        opened(write_jsonl(tmp_path, WORDS), text_column="txt")


def test_a_column_without_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlatformError, match="The column 'n' holds int, not text"):
        both_splits(opened(write_jsonl(tmp_path, WORDS), text_column="n"))


@pytest.mark.parametrize("name", ["/no/such/text", "./missing", "missing.jsonl"])
def test_a_missing_dataset_path_is_named(name: str) -> None:
    with pytest.raises(PlatformError, match=f"The dataset '{Path(name)}' does not exist"):
        opened(name)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.csv").write_text("text\n")
    with pytest.raises(PlatformError, match=r"no kind that can be read: \.jsonl, \.parquet, \.txt\."):
        opened(tmp_path / "text.csv")
    with pytest.raises(PlatformError, match=r"holds no file of these kinds: \.jsonl, \.parquet, \.txt\."):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("latin.txt", b"caf\xe9 au lait"),
        ("latin.jsonl", b'{"text": "caf\xe9 au lait"}\n'),
        ("cut.jsonl", b'{"text": "caf'),
        ("cut.parquet", b"PAR1"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PlatformError, match=name):
        both_splits(opened(tmp_path))


def test_a_damaged_saved_dataset_is_named(tmp_path: Path) -> None:
    folder = write_saved(tmp_path, WORDS)
    next(folder.glob("*.arrow")).write_bytes(b"")
    with pytest.raises(PlatformError, match=f"Cannot read the dataset '{folder}'"):
        opened(folder)


def test_a_split_is_not_ignored_where_there_is_none() -> None:
    with pytest.raises(PlatformError, match="dataset_split is 'test', but 'stdlib' has none to choose"):
        opened("stdlib", dataset_split="test")


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "has no document that is not blank"),
        (["", " "], "has no document that is not blank"),
        ([next(word for word in WORDS if is_held_out(word))], "has no training document: about 5 %"),
        (["too short"], "has too little training text for one context of 12 tokens"),
    ],
)
@pytest.mark.parametrize("write", [write_txt, write_jsonl])
def test_a_dataset_without_one_context_is_refused_at_once(
    write: Writer, texts: list[str], message: str, tmp_path: Path, model_folder: Any
) -> None:
    settings = {"model": str(model_folder()), "context_size": 12}
    with pytest.raises(PlatformError, match=message):
        TransformersSourceConfig(dataset=str(write(tmp_path, texts)), **settings).build()


def test_held_out_text_that_is_not_there_is_missed_when_asked_for(tmp_path: Path, model_folder: Any) -> None:
    long = next(text for text in (f"a b c d {number} f g h i j k l m" for number in range(99)) if not is_held_out(text))
    settings = {"model": str(model_folder()), "context_size": 12}
    source = TransformersSourceConfig(dataset=str(write_txt(tmp_path, [long])), **settings).build()
    assert len(list(source.contexts("train"))) == 1
    with pytest.raises(PlatformError, match="has no held-out document"):
        next(source.harvest("held_out"))
