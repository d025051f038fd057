"""Find and load a language model and its tokenizer: the embedded tinypy, a local folder or a name on the hub."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sae_platform.components import Dtype
from sae_platform.errors import PlatformError
from sae_platform.model_names import hub_name

EMBEDDED = {"tinypy": Path(__file__).parent / "tinypy"}
CAUSAL = ("ForCausalLM", "LMHeadModel")


def looks_like_a_path(name: str) -> bool:
    """Whether `name` means a place on this machine and not a name on the hub."""
    return name.startswith(("/", ".", "~")) or Path(name).exists()


def hub_is_reachable() -> bool:
    """Whether the hub answers. Asked once, because its client repeats every failing request for half a minute."""
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=5)
    except Exception:
        return False
    return True


@dataclass(frozen=True)
class Checkpoint:
    """A model that exists, of which only the configuration has been read."""

    name: str  # as asked
    loading: dict[str, Any]  # arguments of every from_pretrained
    config: Any
    loaded: nn.Module | None = None  # the model itself, where it is there already

    @classmethod
    def of(cls, model: Any) -> Checkpoint:
        """That of a model that is loaded, or of one in a TransformerLens bridge."""
        config = getattr(model, "original_model", model).config
        loading = {"pretrained_model_name_or_path": config.name_or_path, "trust_remote_code": False}
        return cls(config.name_or_path, loading, config, model)

    @property
    def causal(self) -> bool:
        return any(word.endswith(CAUSAL) for word in self.config.architectures or ())

    @property
    def commit(self) -> str | None:
        """Commit of the model on the hub, where known."""
        return getattr(self.config, "_commit_hash", None) or self.loading.get("revision")

    def skeleton(self) -> nn.Module:
        """The model without weights, to look things up in."""
        if self.loaded is not None:
            return self.loaded
        with torch.device("meta"):
            model: nn.Module = self._auto_class().from_config(self.config, trust_remote_code=False)
        return model

    def model(self, dtype: Dtype, device: torch.device) -> nn.Module:
        """The frozen model with its weights; one that is loaded stays as it is."""
        if self.loaded is not None:
            return self.loaded
        with _without_progress_bar():
            model, info = _load(
                self.name,
                "weights",
                lambda: self._auto_class().from_pretrained(
                    **self.loading, config=self.config, dtype=getattr(torch, dtype), output_loading_info=True
                ),
            )
        missing = sorted(key for key in info["missing_keys"] if "pooler" not in key)
        if missing:
            raise PlatformError(f"The weights of {self.name!r} lack {len(missing)} tensors, first {missing[0]!r}.")
        placed: nn.Module = model.to(device)
        return placed.eval().requires_grad_(False)

    def tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        tokenizer = _load(self.name, "tokenizer", lambda: AutoTokenizer.from_pretrained(**self.loading))
        if len(tokenizer) <= len(tokenizer.all_special_ids):  # what transformers makes up where there are no files
            raise PlatformError(f"The model {self.name!r} comes without a tokenizer; save one beside it.")
        return tokenizer

    def _auto_class(self) -> Any:
        from transformers import AutoModel, AutoModelForCausalLM

        return AutoModelForCausalLM if self.causal else AutoModel


def find_model(name: str, revision: str | None = None) -> Checkpoint:
    """Read the configuration of a model. PlatformError when there is none."""
    from transformers import AutoConfig

    loading: dict[str, Any] = {"trust_remote_code": False}
    if name in EMBEDDED or looks_like_a_path(name):
        folder = EMBEDDED.get(name) or Path(name).expanduser()
        if not (folder / "config.json").is_file():
            problem = "has no config.json" if folder.is_dir() else "does not exist"
            raise PlatformError(f"The model folder {str(folder)!r} {problem}; write one with save_pretrained.")
        if revision is not None:
            raise PlatformError(f"model_revision is {revision!r}, but {name!r} is a local folder without revisions.")
        loading |= {"pretrained_model_name_or_path": str(folder), "local_files_only": True}
    else:
        loading |= {"pretrained_model_name_or_path": hub_name(name), "revision": revision}
        loading["local_files_only"] = not hub_is_reachable()
    config = _load(name, "configuration", lambda: AutoConfig.from_pretrained(**loading))
    if config.is_encoder_decoder:
        raise PlatformError(f"{name!r} is an encoder-decoder model; this source runs decoders and encoders alone.")
    config.get_text_config().use_cache = False  # a cache of keys and values is of no use to a single forward pass
    return Checkpoint(name, loading, config)


def first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextmanager
def _without_progress_bar() -> Iterator[None]:
    """Reading weights takes a moment; a run has a progress display of its own."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _load(name: str, what: str, loader: Callable[[], Any]) -> Any:
    try:
        return loader()
    except Exception as error:  # transformers and the readers of its files raise errors of every class
        local = name in EMBEDDED or looks_like_a_path(name)
        place = "its folder" if local else "the Hugging Face hub or the local cache"
        raise PlatformError(
            f"Cannot load the {what} of the model {name!r} from {place}: {first_line(error)} "
            'Give a local folder, a name from https://huggingface.co/models, or model = "tinypy", which is embedded.'
        ) from error
