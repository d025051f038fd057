"""Readers of other projects' weights: what each of them calls its files, and where the tensors lie in them."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from sae_platform.components import Contents, WeightFormat
from sae_platform.hookspecs import hookimpl
from sae_platform.releases import ReleasedSAE

if TYPE_CHECKING:
    from sae_platform.sae import SAE


class Published(WeightFormat):
    """A format by its files, from the root of the repository, and by the function here that reads them."""

    needed: ClassVar[tuple[str, ...]] = ("{path}",)
    optional: ClassVar[tuple[str, ...]] = ()
    reader: ClassVar[tuple[str, str]]  # module and function
    writer: ClassVar[tuple[str, str] | None] = None
    tells_itself: ClassVar[bool] = True  # whether the files alone say that they are in this format

    def files(self, path: str) -> Mapping[str, bool]:
        places = dict.fromkeys(self.needed, True) | dict.fromkeys(self.optional, False)
        parts = {"path": path, "parent": str(Path(path).parent), "name": Path(path).name}
        return {str(Path(place.format_map(parts))): required for place, required in places.items()}

    def fits(self, path: str, present: Container[str]) -> bool:
        return self.tells_itself and super().fits(path, present)

    def read(self, root: Path, sae: ReleasedSAE) -> Contents:
        contents: Contents = _function(*self.reader)(root, sae)
        return contents

    def write(self, sae: SAE, folder: Path) -> None:
        if self.writer is None:
            super().write(sae, folder)
        else:
            _function(*self.writer)(sae, folder)


def _function(module: str, name: str) -> Callable[..., Any]:
    """A function of this plugin, imported when it is called: torch is not needed to list formats."""
    function: Callable[..., Any] = getattr(import_module(f"sae_platform_formats.{module}"), name)
    return function


class GemmaScope(Published):
    """Gemma Scope (arXiv 2408.05147): JumpReLU in params.npz."""

    kind: Literal["gemma_scope"] = "gemma_scope"
    needed = ("{path}/params.npz",)
    reader = ("gemma_scope", "read")


class GemmaScopeTranscoder(Published):
    """Gemma Scope's transcoders of Gemma 2: JumpReLU in params.npz."""

    kind: Literal["gemma_scope_transcoder"] = "gemma_scope_transcoder"
    needed = ("{path}/params.npz",)
    reader = ("gemma_scope", "read_transcoder")
    tells_itself = False  # it looks like an SAE's; the name of its repository says what it is


class GemmaScope2(Published):
    """Gemma Scope 2: JumpReLU in params.safetensors; transcoders too, some with a skip connection or across layers."""

    kind: Literal["gemma_scope_2"] = "gemma_scope_2"
    reader = ("gemma_scope", "read_second")

    def files(self, path: str) -> Mapping[str, bool]:
        crosses_layers = "clt" in path
        return {f"{path}.safetensors" if crosses_layers else f"{path}/params.safetensors": True}


class LlamaScope(Published):
    """Llama Scope (arXiv 2410.20526): JumpReLU with one threshold for all features."""

    kind: Literal["llama_scope"] = "llama_scope"
    needed = ("{path}/hyperparams.json", "{path}/checkpoints/final.safetensors")
    reader = ("llama_scope", "read")


class LlamaScopeR1(Published):
    """Llama Scope for the R1 distill: JumpReLU with the logarithms of its thresholds."""

    kind: Literal["llama_scope_r1"] = "llama_scope_r1"
    tells_itself = False  # without the factor in the registry it is of no use
    needed = ("{path}/sae_weights.safetensors",)
    reader = ("llama_scope", "read_r1")


class DictionaryLearning(Published):
    """dictionary_learning: config.json names the class of its dictionary, whose state is in ae.pt."""

    kind: Literal["dictionary_learning"] = "dictionary_learning"
    needed = ("{path}/config.json", "{path}/ae.pt")
    reader = ("dictionary_learning", "read")
    writer = ("dictionary_learning", "write")


class Sparsify(Published):
    """EleutherAI's sparsify: TopK SAEs and transcoders."""

    kind: Literal["sparsify"] = "sparsify"
    needed = ("{path}/cfg.json", "{path}/sae.safetensors")
    reader = ("sparsify", "read")
    writer = ("sparsify", "write")


class Temporal(Published):
    """Temporal SAEs (arXiv 2511.01836)."""

    kind: Literal["temporal"] = "temporal"
    needed = ("{path}/conf.yaml", "{path}/latest_ckpt.safetensors")
    reader = ("temporal", "read")


class QwenScope(Published):
    """Qwen Scope: TopK, a file for each layer; k stands in the name of the repository."""

    kind: Literal["qwen_scope"] = "qwen_scope"
    reader = ("single_files", "read_qwen_scope")


class Goodfire(Published):
    """Goodfire's SAEs of Llama: relu, two linear layers in one file."""

    kind: Literal["goodfire"] = "goodfire"
    reader = ("single_files", "read_goodfire")


class DeepSeekR1(Published):
    """qresearch's SAE of the R1 distill: relu, two linear layers in one file."""

    kind: Literal["deepseek_r1"] = "deepseek_r1"
    reader = ("single_files", "read_deepseek_r1")


class HookZ(Published):
    """Kissane and Krzyzanowski's SAEs of attention heads: relu, a file for each layer."""

    kind: Literal["hook_z"] = "hook_z"
    reader = ("single_files", "read_hook_z")


class OpenAI(Published):
    """OpenAI's sparse_autoencoder (arXiv 2406.04093): one file that names its activation."""

    kind: Literal["openai"] = "openai"
    reader = ("openai", "read")


class Hanna(Published):
    """Hanna's transcoders of Qwen 3: relu, a file for each layer."""

    kind: Literal["mwhanna"] = "mwhanna"
    reader = ("transcoders", "read_hanna")


class CrossLayer(Published):
    """A layer of mntss' cross-layer transcoders: relu, encoder and decoders in files of their own."""

    kind: Literal["mntss"] = "mntss"
    needed = (
        "{parent}/config.yaml", "{parent}/W_enc_{name}.safetensors", "{parent}/W_dec_{name}.safetensors",
    )  # fmt: skip
    reader = ("transcoders", "read_cross_layer")


@hookimpl
def register_formats() -> list[type[WeightFormat]]:
    return [
        GemmaScope, GemmaScopeTranscoder, GemmaScope2, LlamaScope, LlamaScopeR1, DictionaryLearning, Sparsify, Temporal,
        QwenScope, Goodfire, DeepSeekR1, HookZ, OpenAI, Hanna, CrossLayer,
    ]  # fmt: skip
