"""Small language models with random weights, made on this machine."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from random import Random
from typing import Any, Protocol

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

LAYERS, WIDTH, POSITIONS = 3, 8, 32
WORDS = ["<bos>", "<eos>", "<unk>", *"abcdefghijklmnopqrstuvwxyz"]
SIZES: dict[str, Any] = {
    "vocab_size": len(WORDS),
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": POSITIONS,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2LMHeadModel", {}),
    "llama": ("LlamaForCausalLM", {"num_key_value_heads": 1}),
    "gpt_neox": ("GPTNeoXForCausalLM", {"use_parallel_residual": True}),
    "gemma2": ("Gemma2ForCausalLM", {"num_key_value_heads": 1, "head_dim": 4}),
    "qwen3": ("Qwen3ForCausalLM", {"num_key_value_heads": 1, "head_dim": 4}),
    "phi3": ("Phi3ForCausalLM", {"num_key_value_heads": 1}),
    "olmo2": ("Olmo2ForCausalLM", {"num_key_value_heads": 1}),
    "gemma3": ("Gemma3ForCausalLM", {"num_key_value_heads": 1, "head_dim": 4}),
    "glm4": ("Glm4ForCausalLM", {"num_key_value_heads": 1, "head_dim": 4}),
    "bloom": ("BloomForCausalLM", {}),
    "bert": ("BertForMaskedLM", {}),
}


def save_tokenizer(folder: Path, **special: str) -> None:
    """A tokenizer that knows the letters and the special tokens named."""
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", **special).save_pretrained(
        folder
    )


class ModelFolder(Protocol):
    def __call__(self, family: str = "gpt2", dtype: str = "float32", special: str = "bos eos") -> Path: ...


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    """The folder of a model of a family, saved in some dtype with a tokenizer that has some special tokens."""

    @cache
    def make(family: str = "gpt2", dtype: str = "float32", special: str = "bos eos") -> Path:
        folder = tmp_path_factory.mktemp(family)
        torch.manual_seed(0)
        architecture, extra = FAMILIES[family]
        model_class = getattr(transformers, architecture)
        model = model_class(model_class.config_class(**SIZES, **extra))
        with torch.no_grad():
            for parameter in model.parameters():  # gains and biases too, which start at one and zero
                parameter.add_(0.05 * torch.randn_like(parameter))
        model.to(getattr(torch, dtype)).save_pretrained(folder)
        save_tokenizer(folder, **{f"{name}_token": f"<{name}>" for name in special.split()})
        return folder

    return make


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four hundred documents of 5 to 14 letters."""
    letters = Random(0)
    documents = (" ".join(letters.choices(WORDS[3:], k=5 + number % 10)) for number in range(400))
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text("\n\n".join(documents))
    return file
