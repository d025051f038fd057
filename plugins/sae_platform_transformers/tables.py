"""Columns of text in jsonl and parquet files, saved datasets and hub datasets, read by the datasets library."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_platform.errors import PlatformError, choices, nearest
from sae_platform_transformers.documents import Document
from sae_platform_transformers.models import first_line, hub_is_reachable

if TYPE_CHECKING:
    from sae_platform_transformers import LanguageModelConfig

BUILDERS = {".jsonl": "json", ".parquet": "parquet"}


class Table:
    """One text column of a dataset; a text decides its own split."""

    def __init__(self, name: str, dataset: Any, column: str) -> None:
        _check_column(name, dataset.column_names, column)
        self.name, self.column = name, column
        self.dataset = dataset.select_columns([column])

    def __len__(self) -> int:
        return len(self.dataset)

    def take(self, indices: list[int]) -> list[Document]:
        try:
            values = self.dataset[indices][self.column]
        except UnicodeDecodeError as error:
            raise PlatformError(f"{self.name!r} holds text that is not UTF-8: {error}.") from error
        texts = [text_of(value, self.column) for value in values]
        return list(zip(texts, texts, strict=True))


def text_of(value: object, column: str) -> str:
    """A cell as text; an empty one is a blank document."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise PlatformError(f"The column {column!r} holds {type(value).__name__}, not text; set another text_column.")
    return value


def table_file(path: Path) -> Any:
    """The dataset in a jsonl or parquet file."""
    import datasets

    builder, files = BUILDERS[path.suffix], [str(path)]
    return _read(path, lambda: datasets.load_dataset(builder, data_files=files, split="train"))


def is_saved_dataset(path: Path) -> bool:
    """Whether `datasets.save_to_disk` wrote this folder."""
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def saved_dataset(path: Path, split: str, column: str) -> Table:
    """A folder that `datasets.save_to_disk` wrote."""
    import datasets

    dataset = _read(path, lambda: datasets.load_from_disk(str(path)))
    if not isinstance(dataset, datasets.DatasetDict):
        dataset = {"train": dataset}
    if split not in dataset:
        raise PlatformError(
            f"The dataset {str(path)!r} has no split {split!r}.{nearest(split, dataset)} It has: {choices(dataset)}."
        )
    return Table(str(path), dataset[split], column)


def hub_dataset(cfg: LanguageModelConfig) -> Any:
    """A dataset of the hub, streamed or downloaded as the config says."""
    from huggingface_hub import is_offline_mode

    if not is_offline_mode() and not hub_is_reachable():
        raise PlatformError(
            f"The dataset {cfg.dataset!r} is no local file or folder, and the Hugging Face hub does not answer. "
            'Give a path, dataset = "stdlib", or set HF_HUB_OFFLINE=1 to use a dataset that was downloaded before.'
        )
    import datasets

    try:
        dataset = datasets.load_dataset(
            cfg.dataset, cfg.dataset_config, split=cfg.dataset_split, streaming=cfg.streaming
        )
        columns = dataset.column_names or list(next(iter(dataset)))
    except Exception as error:  # hub, network and file readers raise errors of many libraries
        raise PlatformError(
            f"Cannot open the dataset {cfg.dataset!r} (config {cfg.dataset_config!r}, split {cfg.dataset_split!r}) "
            f"from the Hugging Face hub: {first_line(error)}"
        ) from error
    _check_column(cfg.dataset, columns, cfg.text_column)
    return dataset


def _read(path: Path, reader: Callable[[], Any]) -> Any:
    try:
        return reader()
    except Exception as error:  # the readers of the formats raise errors of many libraries
        why = first_line(error.__cause__ or error)
        raise PlatformError(f"Cannot read the dataset {str(path)!r}: {why}") from error


def _check_column(name: str, columns: list[str], column: str) -> None:
    if column not in columns:
        raise PlatformError(
            f"The dataset {name!r} has no column {column!r}.{nearest(column, columns)} "
            f"It has: {choices(columns)}. Set text_column to the one that holds the text."
        )
