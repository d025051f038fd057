"""Hold our SAE folders to those of the other libraries: what one saves, the other loads with equal outputs.

    make compare

runs this in our environment, in one that has the other libraries and in one that has the last SAELens before 6. It ends
with an error where outputs differ by more than 1e-6 of their largest.
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
X = torch.randn(4, 16, D_IN, generator=torch.Generator().manual_seed(0))
BEFORE_6: dict[str, dict[str, Any]] = {"standard": {}, "gated": {}, "topk": {"k": K}, "jumprelu": {}}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    **BEFORE_6, "abstopk": {"k": K}, "matching_pursuit": {},
    "temporal": {"n_heads": 2, "bottleneck_factor": 4, "kval_topk": K},
    **{name: {"d_out": D_IN // 2} for name in ("transcoder", "skip_transcoder", "jumprelu_transcoder",
                                              "jumprelu_skip_transcoder")},
}  # fmt: skip
CONVERTED = {"dictionary_learning": ("standard", "gated", "topk", "jumprelu"),
             "sparsify": ("topk", "topk_transcoder", "topk_skip_transcoder")}  # fmt: skip


def main() -> None:
    if len(sys.argv) > 1:
        folder, library = Path(sys.argv[1]), sys.argv[2]
        {"peers": peers, "saelens_5": saelens_5}[library](folder)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for architecture, settings in ARCHITECTURES.items():
            write_ours(folder / "ours" / architecture, architecture, settings)
        for form, architectures in CONVERTED.items():
            for architecture in architectures:
                settings = {"k": K} if "topk" in architecture else {}
                settings |= {"d_out": D_IN} if "transcoder" in architecture else {}
                write_ours(folder / form / architecture, architecture, settings, form)
        for environment, library in ((".peers", "peers"), (".peers-5", "saelens_5")):
            python = ROOT / environment / "bin/python"
            subprocess.run([python, "-m", "scripts.interchange", folder, library], cwd=ROOT, check=True)
        from sae_platform import SAE

        for place in sorted((folder / "theirs").iterdir()):
            agree(f"{place.name}, saved elsewhere and loaded here", outputs(SAE.load_from_disk(place)), place)


def write_ours(folder: Path, architecture: str, settings: dict[str, Any], form: str | None = None) -> None:
    """An SAE of ours with random weights, and what it computes."""
    from sae_platform import SAEConfig
    from sae_platform.components import WeightFormat

    built = SAEConfig(architecture=architecture, d_in=D_IN, d_sae=D_SAE, **settings).build()
    sae = randomised(built).inference_form()
    if form is None:
        sae.save_model(folder)
    else:
        WeightFormat(kind=form).write(sae, folder)
    save_file(outputs(sae), folder / "outputs.safetensors")


def peers(folder: Path) -> None:
    """In sae-lens 6, dictionary_learning and sparsify: load ours, and save what they have."""
    saelens(folder)
    saelens_in_training(folder / "theirs")
    dictionary_learning(folder)
    sparsify(folder)


def saelens(folder: Path) -> None:
    """Load ours, and save an SAE of every architecture."""
    from sae_lens import SAE
    from sae_lens.registry import get_sae_class

    for place in sorted((folder / "ours").iterdir()):
        agree(f"{place.name}, saved here and loaded by SAELens", outputs(SAE.load_from_disk(str(place))), place)
    made = {name: (name, settings) for name, settings in ARCHITECTURES.items()}
    made["standard layer_norm"] = ("standard", {"normalize_activations": "layer_norm"})
    made["topk rescaled"] = ("topk", {"k": K, "rescale_acts_by_decoder_norm": True})
    made["temporal untied"] = ("temporal", {**ARCHITECTURES["temporal"], "tied_weights": False})
    for name, (architecture, settings) in made.items():
        module, config = get_sae_class(architecture)
        settings = {"apply_b_dec_to_input": "transcoder" not in architecture, **settings}
        sae, place = randomised(module(config(d_in=D_IN, d_sae=D_SAE, **settings))), folder / "theirs" / name
        sae.save_model(str(place))
        save_file(outputs(sae), place / "outputs.safetensors")


def saelens_in_training(folder: Path) -> None:
    """Save SAEs as they are in training, and what those compute that people use afterwards."""
    from sae_lens import SAE
    from sae_lens.registry import get_sae_training_class

    for architecture, settings in {
        "standard": {}, "gated": {}, "topk": {"k": K}, "jumprelu": {}, "abstopk": {"k": K}, "batchtopk": {"k": K},
        "matryoshka_batchtopk": {"k": K, "matryoshka_widths": [D_SAE // 2, D_SAE]}, "matching_pursuit": {},
    }.items():  # fmt: skip
        module, config = get_sae_training_class(architecture)
        if architecture == "matching_pursuit":
            settings = {"decoder_init_norm": 1.0}
        sae, place = randomised(module(config(d_in=D_IN, d_sae=D_SAE, **settings))), folder / f"{architecture} training"
        if hasattr(sae, "topk_threshold"):
            sae.topk_threshold.fill_(0.7)
        sae.save_model(str(place))
        sae.save_inference_model(str(place / "inference"))
        save_file(outputs(SAE.load_from_disk(str(place / "inference"))), place / "outputs.safetensors")


def dictionary_learning(folder: Path) -> None:
    """Load what was converted here, and save one of every dictionary."""
    from dictionary_learning.dictionary import AutoEncoder, AutoEncoderNew, GatedAutoEncoder, JumpReluAutoEncoder
    from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
    from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE
    from dictionary_learning.trainers.top_k import AutoEncoderTopK
    from dictionary_learning.utils import load_dictionary

    for place in sorted((folder / "dictionary_learning").iterdir()):
        if place.name == "standard":  # whose decoder rows `load_dictionary` makes norm 1
            dictionary = AutoEncoder.from_pretrained(place / "ae.pt", normalize_decoder=False)
        else:
            dictionary = load_dictionary(str(place), "cpu")[0]
        agree(f"{place.name}, converted here and loaded by dictionary_learning", outputs(dictionary), place)
    for made in (
        AutoEncoder(D_IN, D_SAE), AutoEncoderNew(D_IN, D_SAE), GatedAutoEncoder(D_IN, D_SAE),
        JumpReluAutoEncoder(D_IN, D_SAE), AutoEncoderTopK(D_IN, D_SAE, K), BatchTopKSAE(D_IN, D_SAE, K),
        MatryoshkaBatchTopKSAE(D_IN, D_SAE, K, [D_SAE // 2, D_SAE // 2]),
    ):  # fmt: skip
        sae, place = randomised(made), folder / "theirs" / f"dictionary_learning {type(made).__name__}"
        place.mkdir(parents=True)
        if getattr(sae, "threshold", None) is not None and sae.threshold.ndim == 0:
            sae.threshold.fill_(0.3)
        torch.save(sae.state_dict(), place / "ae.pt")
        trainer = {"dict_class": type(made).__name__, "k": K, "layer": 0}
        (place / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {"ctx_len": 128}}))
        save_file(outputs(sae), place / "outputs.safetensors")


def sparsify(folder: Path) -> None:
    """Load what was converted here, and save an SAE and transcoders."""
    from sparsify import SparseCoder, SparseCoderConfig

    for place in sorted((folder / "sparsify").iterdir()):
        sae = SparseCoder.load_from_disk(place)
        agree(f"{place.name}, converted here and loaded by sparsify", sparse_coder_outputs(sae), place)
    for name, settings in {
        "sae": {}, "transcoder": {"transcode": True}, "skip transcoder": {"transcode": True, "skip_connection": True},
    }.items():  # fmt: skip
        made = SparseCoder(D_IN, SparseCoderConfig(num_latents=D_SAE, k=K, **settings))
        sae, place = randomised(made), folder / "theirs" / f"sparsify {name}"
        sae.save_to_disk(place)
        save_file(sparse_coder_outputs(sae), place / "outputs.safetensors")


@torch.no_grad()
def sparse_coder_outputs(sae: Any) -> dict[str, Tensor]:
    rows = X.flatten(0, 1)
    top = sae.encode(rows)
    features = torch.zeros(len(rows), D_SAE).scatter(-1, top.top_indices, top.top_acts)
    return {"features": features.view(*X.shape[:-1], -1), "reconstruction": sae(rows).sae_out.view(*X.shape[:-1], -1)}


def saelens_5(folder: Path) -> None:
    """In sae-lens 5: load ours."""
    from sae_lens import SAE

    for architecture in BEFORE_6:
        place = folder / "ours" / architecture
        agree(
            f"{architecture}, saved here and loaded by SAELens 5", outputs(SAE.load_from_pretrained(str(place))), place
        )


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
