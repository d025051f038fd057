"""What is measured: a library's training step, at a size and number of active features; or a stage of training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

SMALL_PAGES = "small_pages"  # a setting that changes where torch puts large tensors, and nothing else
PRECISIONS = {"tf32": "tf32", "autocast": "bfloat16"}  # settings of the others, and our precision that is like them


@dataclass(frozen=True)
class Size:
    """Widths, active features of TopK, and rows in a batch."""

    d_in: int
    d_sae: int
    k: int
    batch: int


CPU = {"S": Size(512, 8192, 32, 2048), "M": Size(768, 24576, 32, 4096)}
CUDA = {"A": Size(768, 24576, 32, 16384), "B": Size(2304, 65536, 64, 8192), "C": Size(4096, 131072, 64, 8192)}
PARITY = Size(512, 8192, 32, 512)  # where 20 steps are soon taken; whether libraries agree does not depend on the size
SIZES = {"tiny": Size(32, 512, 4, 256), "parity": PARITY, **CPU, **CUDA}


@dataclass(frozen=True)
class Case:
    """A row of the table of steps. `l0` is held by a bias or threshold; for topk it is k."""

    size: str
    architecture: str
    l0: int
    library: str
    setting: str = "default"

    mode = "steps"

    @property
    def name(self) -> str:
        return "-".join((self.size, self.architecture, str(self.l0), self.library, self.setting))

    def ours(self) -> Case:
        """Our step that this one is compared with."""
        setting = PRECISIONS.get(self.setting, "default")
        return Case(self.size, self.architecture, self.l0, "sae_platform", setting)

    def same_options(self) -> Case:
        """Our step with the options of this one, whose losses must agree with its."""
        unscaled = self.setting == "use_sparse_activations"  # SAELens cannot rescale activations then
        return replace(self.ours(), setting="unscaled") if unscaled else self.ours()

    def parity_twin(self) -> Case:
        """The case at the size at which losses are compared."""
        share = self.l0 / SIZES[self.size].d_sae
        l0 = self.l0 if self.architecture == "topk" or share < 0.01 else round(share * PARITY.d_sae)
        return Case("parity", self.architecture, l0, self.library, self.setting)

    def dump(self) -> dict[str, str | int]:
        return asdict(self)


@dataclass(frozen=True)
class Stage:
    """A row of the table of stages: buffer, harvest or end_to_end."""

    mode: str
    library: str
    setting: str = "default"

    @property
    def name(self) -> str:
        return f"{self.library}-{self.setting}"

    def ours(self) -> Stage:
        """Our stage that this one is compared with."""
        return Stage(self.mode, "sae_platform")

    def dump(self) -> dict[str, str]:
        return asdict(self)


def cases(device: str) -> list[Case]:
    """Every step, those that are compared beside each other."""
    if device == "cuda":
        return [case for size in CUDA for case in _cuda(size)]
    return [*_small(), *_medium()]


def stages(device: str) -> list[Stage]:
    """Every stage, those that are compared beside each other."""
    if device == "cuda":
        return [Stage("end_to_end", library) for library in ("sae_platform", "saelens")]
    return [
        Stage("buffer", "sae_platform"), Stage("buffer", "saelens"), Stage("buffer", "dictionary_learning"),
        Stage("harvest", "sae_platform"), Stage("harvest", "saelens"),
        Stage("end_to_end", "sae_platform"), Stage("end_to_end", "saelens"),
    ]  # fmt: skip


def _topk(size: str, *settings: tuple[str, str]) -> Iterator[Case]:
    for library, setting in settings:
        yield Case(size, "topk", SIZES[size].k, library, setting)


def _both(size: str, architecture: str, l0: int) -> Iterator[Case]:
    for library in ("sae_platform", "saelens"):
        yield Case(size, architecture, l0, library)


def _small() -> Iterator[Case]:
    yield from _topk(
        "S", ("sae_platform", "default"), ("bound", "default"), ("saelens", "default"),
        ("saelens", "use_sparse_activations"), ("dictionary_learning", "default"), ("sparsify", "fused_adam"),
    )  # fmt: skip
    for architecture in ("standard", "jumprelu", "gated"):
        yield from _both("S", architecture, 64)


def _medium() -> Iterator[Case]:
    yield from _topk(
        "M", ("sae_platform", "default"), ("bound", "default"), ("saelens", "default"),
        ("saelens", "use_sparse_activations"), ("sae_platform", SMALL_PAGES), ("dictionary_learning", "default"),
        ("sparsify", "fused_adam"), ("sae_platform", "auxk_half_dead"),
    )  # fmt: skip
    d_sae = SIZES["M"].d_sae
    for architecture in ("standard", "jumprelu"):
        for l0 in (64, round(d_sae * 0.02), round(d_sae * 0.12)):
            yield from _both("M", architecture, l0)
    yield from _both("M", "standard", d_sae // 2)
    yield from _both("M", "gated", 64)
    yield Case("M", "gated", 64, "sae_platform", "frozen_decoder")


def _cuda(size: str) -> Iterator[Case]:
    yield from _topk(
        size, ("sae_platform", "default"), ("sae_platform", "tf32"), ("sae_platform", "bfloat16"),
        ("sae_platform", "auxk_half_dead"), ("bound", "default"), ("saelens", "default"), ("saelens", "tf32"),
        ("saelens", "autocast"), ("saelens", "use_sparse_activations"), ("dictionary_learning", "default"),
        ("sparsify", "autocast"),  # always on CUDA
    )  # fmt: skip
    for architecture in ("standard", "jumprelu", "gated"):
        for library, settings in (
            ("sae_platform", ("default", "tf32", "bfloat16")),
            ("saelens", ("default", "tf32", "autocast")),
        ):
            for setting in settings:
                yield Case(size, architecture, 64, library, setting)
