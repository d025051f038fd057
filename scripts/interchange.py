"""Hold our SAE folders to those of the other libraries: what one saves, the other loads with equal outputs.

    make compare

runs this twice, in our environment and in one that has the other libraries. It ends with an error where outputs differ
by more than 1e-6 of their largest.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

ROOT = Path(__file__).parent.parent
D_IN, D_SAE, K = 16, 48, 4
ARCHITECTURES = ("standard", "gated", "topk", "jumprelu")
X = torch.randn(64, D_IN, generator=torch.Generator().manual_seed(0))


def main() -> None:
    if len(sys.argv) > 1:
        saelens(Path(sys.argv[1]))
        dictionary_learning(Path(sys.argv[1]) / "dictionaries")
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for architecture in ARCHITECTURES:
            write_ours(folder / "ours" / architecture, architecture)
        subprocess.run([ROOT / ".peers/bin/python", "-m", "scripts.interchange", folder], cwd=ROOT, check=True)
        from sae_platform import SAE

        for place in sorted((folder / "theirs").iterdir()):
            agree(f"{place.name}, saved by SAELens and loaded here", outputs(SAE.load_from_disk(place)), place)
        for place in sorted((folder / "dictionaries").iterdir()):
            what = f"{place.name}, saved by dictionary_learning and loaded here"
            agree(what, outputs(loaded(place, "dictionary_learning")), place)


def loaded(folder: Path, form: str) -> Any:
    """An SAE in another project's format."""
    from sae_platform.components import WeightFormat
    from sae_platform.releases import ReleasedSAE
    from sae_platform.weights import assembled

    sae = ReleasedSAE("release", "id", "model", "user/repo", folder.name, form, layer=0, site="resid_post")
    return assembled(*WeightFormat(kind=form).read(folder.parent, sae), "cpu", folder)


def write_ours(folder: Path, architecture: str) -> None:
    """An SAE of ours with random weights, and what it computes."""
    from sae_platform import SAEConfig

    settings: dict[str, Any] = {"k": K} if architecture == "topk" else {}
    sae = randomised(SAEConfig(architecture=architecture, d_in=D_IN, d_sae=D_SAE, **settings).build()).inference_form()
    sae.save_model(folder)
    save_file(outputs(sae), folder / "outputs.safetensors")


def saelens(folder: Path) -> None:
    """In sae-lens: load ours, and save SAEs of its own."""
    from sae_lens import SAE
    from sae_lens.saes.gated_sae import GatedSAE, GatedSAEConfig
    from sae_lens.saes.jumprelu_sae import JumpReLUSAE, JumpReLUSAEConfig
    from sae_lens.saes.standard_sae import StandardSAE, StandardSAEConfig
    from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig

    for place in sorted((folder / "ours").iterdir()):
        agree(f"{place.name}, saved here and loaded by SAELens", outputs(SAE.load_from_disk(str(place))), place)
    shared: dict[str, Any] = {"d_in": D_IN, "d_sae": D_SAE}
    for name, made in {
        "standard": StandardSAE(StandardSAEConfig(**shared)),
        "standard layer_norm": StandardSAE(StandardSAEConfig(**shared, normalize_activations="layer_norm")),
        "gated": GatedSAE(GatedSAEConfig(**shared)),
        "topk": TopKSAE(TopKSAEConfig(**shared, k=K)),
        "topk rescaled": TopKSAE(TopKSAEConfig(**shared, k=K, rescale_acts_by_decoder_norm=True)),
        "jumprelu": JumpReLUSAE(JumpReLUSAEConfig(**shared, apply_b_dec_to_input=False)),
    }.items():
        sae, place = randomised(made), folder / "theirs" / name
        sae.save_model(str(place))
        save_file(outputs(sae), place / "outputs.safetensors")


def dictionary_learning(folder: Path) -> None:
    """In dictionary_learning: save one of every dictionary."""
    from dictionary_learning.dictionary import AutoEncoder, AutoEncoderNew, GatedAutoEncoder, JumpReluAutoEncoder
    from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
    from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE
    from dictionary_learning.trainers.top_k import AutoEncoderTopK

    for made in (
        AutoEncoder(D_IN, D_SAE), AutoEncoderNew(D_IN, D_SAE), GatedAutoEncoder(D_IN, D_SAE),
        JumpReluAutoEncoder(D_IN, D_SAE), AutoEncoderTopK(D_IN, D_SAE, K), BatchTopKSAE(D_IN, D_SAE, K),
        MatryoshkaBatchTopKSAE(D_IN, D_SAE, K, [D_SAE // 2, D_SAE // 2]),
    ):  # fmt: skip
        sae, place = randomised(made), folder / type(made).__name__
        place.mkdir(parents=True)
        if getattr(sae, "threshold", None) is not None and sae.threshold.ndim == 0:
            sae.threshold.fill_(0.3)
        torch.save(sae.state_dict(), place / "ae.pt")
        trainer = {"dict_class": type(made).__name__, "k": K, "layer": 0}
        (place / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {"ctx_len": 128}}))
        save_file(outputs(sae), place / "outputs.safetensors")


@torch.no_grad()
def randomised(sae: Any) -> Any:
    generator = torch.Generator().manual_seed(1)
    for name, parameter in sae.named_parameters():
        noise = 0.5 * torch.randn(parameter.shape, generator=generator)
        parameter.copy_(noise.abs() if name == "threshold" else noise)
    return sae.eval()


@torch.no_grad()
def outputs(sae: Any) -> dict[str, Tensor]:
    """Encoded and reconstructed X."""
    return {"features": sae.encode(X).contiguous(), "reconstruction": sae(X).contiguous()}


def agree(what: str, found: dict[str, Tensor], folder: Path) -> None:
    expected = load_file(folder / "outputs.safetensors")
    worst = max((found[name] - tensor).abs().max().item() for name, tensor in expected.items())
    print(f"{what}: {worst:.1e}")
    if worst > 1e-6 * max(1.0, *(tensor.abs().max().item() for tensor in expected.values())):
        sys.exit(f"{what}: the outputs differ by {worst}")


if __name__ == "__main__":
    main()
