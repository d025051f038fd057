"""What is measured: one library, one architecture, at one size and number of active features."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Size:
    """Widths, active features of TopK, and rows in a batch."""

    d_in: int
    d_sae: int
    k: int
    batch: int


SIZES = {"S": Size(512, 8192, 32, 2048), "M": Size(768, 24576, 32, 4096), "tiny": Size(32, 512, 4, 256)}


PAGES = {"small_pages": "0", "huge_pages": "1"}  # settings that change where torch puts large tensors, and nothing else


@dataclass(frozen=True)
class Case:
    """A row of the table. `l0` is held by a bias or threshold; for topk it is k."""

    size: str
    architecture: str
    l0: int
    library: str
    setting: str = "default"

    @property
    def name(self) -> str:
        return "-".join((self.size, self.architecture, str(self.l0), self.library, self.setting))

    @property
    def group(self) -> str:
        """What is compared with each other."""
        return "-".join((self.size, self.architecture, str(self.l0)))

    def parity_twin(self) -> Case:
        """The case at size S, where 20 steps are soon taken; whether libraries agree does not depend on the size."""
        share = self.l0 / SIZES[self.size].d_sae
        l0 = self.l0 if self.architecture == "topk" or share < 0.01 else round(share * SIZES["S"].d_sae)
        setting = "default" if self.setting in PAGES else self.setting
        return Case("S", self.architecture, l0, self.library, setting)

    def dump(self) -> dict[str, str | int]:
        return asdict(self)


def cases() -> list[Case]:
    """Every row, those that are compared beside each other."""
    rows: list[Case] = []
    for size, it in SIZES.items():
        if size == "tiny":
            continue
        rows += [
            Case(size, "topk", it.k, "sae_platform"),
            Case(size, "topk", it.k, "bound"),
            Case(size, "topk", it.k, "saelens"),
            Case(size, "topk", it.k, "saelens", "use_sparse_activations"),
            Case(size, "topk", it.k, "sae_platform", "small_pages"),
            Case(size, "topk", it.k, "saelens", "huge_pages"),
            Case(size, "topk", it.k, "dictionary_learning"),
            Case(size, "topk", it.k, "sparsify", "fused_adam"),
        ]
        sparse, two_percent, dense = 64, round(it.d_sae * 0.02), round(it.d_sae * 0.12)
        for architecture, numbers in (
            ("standard", (sparse, two_percent, dense)),
            ("jumprelu", (sparse, two_percent, dense)),
            ("gated", (sparse,)),
        ):
            for l0 in numbers:
                rows += [Case(size, architecture, l0, library) for library in ("sae_platform", "saelens")]
    return rows
