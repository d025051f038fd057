"""Readers of other projects' weights: what each of them calls its files, and where the tensors lie in them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from sae_platform.components import Contents, WeightFormat
from sae_platform.hookspecs import hookimpl
from sae_platform.releases import ReleasedSAE


class GemmaScope(WeightFormat):
    """Gemma Scope (arXiv 2408.05147): JumpReLU in params.npz."""

    kind: Literal["gemma_scope"] = "gemma_scope"

    def files(self, path: str) -> Mapping[str, bool]:
        return {f"{path}/params.npz": True}

    def read(self, root: Path, sae: ReleasedSAE) -> Contents:
        from sae_platform_formats.gemma_scope import read

        return read(root / sae.path / "params.npz", sae)


class GemmaScope2(WeightFormat):
    """Gemma Scope 2: JumpReLU in params.safetensors."""

    kind: Literal["gemma_scope_2"] = "gemma_scope_2"

    def files(self, path: str) -> Mapping[str, bool]:
        return {f"{path}/params.safetensors": True}

    def read(self, root: Path, sae: ReleasedSAE) -> Contents:
        from sae_platform_formats.gemma_scope import read

        return read(root / sae.path / "params.safetensors", sae)


class LlamaScope(WeightFormat):
    """Llama Scope (arXiv 2410.20526): JumpReLU with one threshold for all features."""

    kind: Literal["llama_scope"] = "llama_scope"

    def files(self, path: str) -> Mapping[str, bool]:
        return {f"{path}/hyperparams.json": True, f"{path}/checkpoints/final.safetensors": True}

    def read(self, root: Path, sae: ReleasedSAE) -> Contents:
        from sae_platform_formats.llama_scope import read

        return read(root / sae.path, sae)


class LlamaScopeR1(WeightFormat):
    """Llama Scope for the R1 distill: JumpReLU with the logarithms of its thresholds."""

    kind: Literal["llama_scope_r1"] = "llama_scope_r1"

    def files(self, path: str) -> Mapping[str, bool]:
        return {f"{path}/sae_weights.safetensors": True}

    def read(self, root: Path, sae: ReleasedSAE) -> Contents:
        from sae_platform_formats.llama_scope import read_r1

        return read_r1(root / sae.path, sae)


class DictionaryLearning(WeightFormat):
    """dictionary_learning: config.json names the class of its dictionary, whose state is in ae.pt."""

    kind: Literal["dictionary_learning"] = "dictionary_learning"

    def files(self, path: str) -> Mapping[str, bool]:
        return {f"{path}/config.json": True, f"{path}/ae.pt": True}

    def read(self, root: Path, sae: ReleasedSAE) -> Contents:
        from sae_platform_formats.dictionary_learning import read

        return read(root / sae.path, sae)


class QwenScope(WeightFormat):
    """Qwen Scope: TopK, a file for each layer; k stands in the name of the repository."""

    kind: Literal["qwen_scope"] = "qwen_scope"

    def files(self, path: str) -> Mapping[str, bool]:
        return {path: True}

    def read(self, root: Path, sae: ReleasedSAE) -> Contents:
        from sae_platform_formats.single_files import read_qwen_scope

        return read_qwen_scope(root / sae.path, sae)


class Goodfire(WeightFormat):
    """Goodfire's SAEs of Llama: relu, two linear layers in one file."""

    kind: Literal["goodfire"] = "goodfire"

    def files(self, path: str) -> Mapping[str, bool]:
        return {path: True}

    def read(self, root: Path, sae: ReleasedSAE) -> Contents:
        from sae_platform_formats.single_files import read_linear_layers

        return read_linear_layers(root / sae.path, sae, "encoder_linear", "decoder_linear")


class DeepSeekR1(WeightFormat):
    """qresearch's SAE of the R1 distill: relu, two linear layers in one file."""

    kind: Literal["deepseek_r1"] = "deepseek_r1"

    def files(self, path: str) -> Mapping[str, bool]:
        return {path: True}

    def read(self, root: Path, sae: ReleasedSAE) -> Contents:
        from sae_platform_formats.single_files import read_linear_layers

        return read_linear_layers(root / sae.path, sae, "encoder", "decoder")


class HookZ(WeightFormat):
    """Kissane and Krzyzanowski's SAEs of attention heads: relu, a file for each layer."""

    kind: Literal["hook_z"] = "hook_z"

    def files(self, path: str) -> Mapping[str, bool]:
        return {path: True}

    def read(self, root: Path, sae: ReleasedSAE) -> Contents:
        from sae_platform_formats.single_files import read_hook_z

        return read_hook_z(root / sae.path, sae)


@hookimpl
def register_formats() -> list[type[WeightFormat]]:
    return [
        GemmaScope, GemmaScope2, LlamaScope, LlamaScopeR1, DictionaryLearning, QwenScope, Goodfire, DeepSeekR1, HookZ,
    ]  # fmt: skip
