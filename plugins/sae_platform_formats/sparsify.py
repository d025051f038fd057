"""sparsify's folders: TopK, of SAEs (of magnitudes too, in older ones) and of transcoders."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch

from sae_platform.components import Contents, SAEConfig
from sae_platform.errors import PlatformError
from sae_platform.releases import ReleasedSAE
from sae_platform.sae import SAE
from sae_platform.weights import write_tensors
from sae_platform_formats.files import centred, dtype_of, metadata_of, plain, settings_in, taken, tensors_in

NAMES = {"W_enc": "encoder.weight", "b_enc": "encoder.bias", "W_dec": "W_dec", "b_dec": "b_dec"}

WRITTEN = {  # our architecture: whether it is a transcoder of theirs, and whether one with a skip connection
    "topk": (False, False), "topk_transcoder": (True, False), "topk_skip_transcoder": (True, True),
}  # fmt: skip


def read(root: Path, sae: ReleasedSAE) -> Contents:
    folder = root / sae.path
    settings = settings_in(folder / "cfg.json", "d_in", "k")
    activation = settings.get("activation", "topk")
    if activation != "topk":
        raise PlatformError(f"{folder} fires by {activation!r}, and only topk of sparsify can be read here.")
    transcodes, signed = bool(settings.get("transcode")), bool(settings.get("signed"))
    path = folder / "sae.safetensors"
    found = tensors_in(path)
    t = taken(path, found, NAMES)
    t["W_enc"] = t["W_enc"].T
    given: dict[str, Any] = {"k": settings["k"], "dtype": dtype_of(t["W_enc"])}
    if "W_skip" in found:
        t["W_skip"] = found["W_skip"]
    if transcodes or "W_skip" in t:
        if signed or not transcodes:
            raise PlatformError(f"{folder} is a signed transcoder, or an SAE with a skip connection: not known here.")
        given |= {"architecture": "topk_skip_transcoder" if "W_skip" in t else "topk_transcoder"}
        given |= {"d_out": t["W_dec"].shape[-1]}
    else:
        given |= {"architecture": "abstopk" if signed else "topk", "rescale_acts_by_decoder_norm": False}
    d_in, d_sae = t["W_enc"].shape
    cfg = SAEConfig(d_in=d_in, d_sae=d_sae, metadata=metadata_of(sae, hook_name=_hook(sae)), **given)
    return Contents(cfg, {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in t.items()})


def _hook(sae: ReleasedSAE) -> str | None:
    """What the name of the folder says: layers.5, layers.5.mlp, embed_tokens."""
    name = Path(sae.path).name
    layer = re.fullmatch(r"layers[._](\d+)(?:[._](mlp|attention|self_attn|attn))?", name)
    if name == "embed_tokens":
        return "hook_embed"
    if layer is None:
        return None
    site = {None: "resid_post", "mlp": "mlp_out"}.get(layer[2], "attn_out")
    return f"blocks.{layer[1]}.hook_{site}"


def write(sae: SAE, folder: Path) -> None:
    """cfg.json and sae.safetensors, as `SparseCoder.load_from_disk` reads them."""
    cfg, t = plain(sae, "sparsify", WRITTEN)
    transcodes, skips = WRITTEN[cfg.architecture]
    if transcodes and getattr(cfg, "d_out", cfg.d_in) != cfg.d_in:
        raise PlatformError("A transcoder of sparsify has one width, and this one reads and writes different ones.")
    t = t if transcodes else centred(t, cfg, subtracts=True)
    state = {theirs: t[ours] for ours, theirs in NAMES.items()} | ({"W_skip": t["W_skip"]} if skips else {})
    state["encoder.weight"] = state["encoder.weight"].T
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / "sae.safetensors", state)
    settings = {"activation": "topk", "num_latents": cfg.d_sae, "k": getattr(cfg, "k", 0), "d_in": cfg.d_in,
                "normalize_decoder": False, "transcode": transcodes, "skip_connection": skips}  # fmt: skip
    (folder / "cfg.json").write_text(json.dumps(settings))
