"""What cfg.json says: our configuration, and the same in the words of SAELens 3 to 6, read and written."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from sae_platform.components import SAEConfig, SAEMetadata, TokenPolicy
from sae_platform.errors import PlatformError, choices
from sae_platform.hookspecs import DISTRIBUTION
from sae_platform.plugins import installed_plugins

SAELENS_VERSION = "6.0.0"  # the oldest release that reads the nested shape
BATCH_TOPK = ("batchtopk", "matryoshka_batchtopk")  # in training; what is used afterwards is JumpReLU
DTYPES = ("float32", "float64", "float16", "bfloat16")
OLDER_NAMES = {"hook_point": "hook_name", "hook_point_layer": "hook_layer", "hook_point_head_index": "hook_head_index",
               "activation_fn": "activation_fn_str"}  # fmt: skip
POLICY = ("prepend_bos", "exclude_special_tokens", "sequence_separator_token")
DEFAULT = TokenPolicy(separator="bos", exclude_special_tokens=False)  # SAELens'
OLD_METADATA = (
    "model_name", "hook_name", "hook_layer", "hook_head_index", "dataset_path", "context_size", "prepend_bos",
    "neuronpedia_id", "model_from_pretrained_kwargs", "seqpos_slice", "sae_lens_training_version",
)  # fmt: skip


def describe(cfg: SAEConfig) -> dict[str, Any]:
    """The content of cfg.json: the nested shape that SAELens 6 reads, the flat one of 3 to 5, and ours."""
    ours = cfg.model_dump(mode="json")
    metadata = cfg.metadata
    policy, extra = metadata.token_policy or DEFAULT, metadata.model_extra or {}
    shared = {
        "model_name": metadata.model_name,
        "hook_name": metadata.hook_name,
        "hook_head_index": None,
        "dataset_path": metadata.dataset_path,
        "context_size": metadata.context_size,
        "prepend_bos": policy.prepend_bos,
        "exclude_special_tokens": policy.exclude_special_tokens,
        "sequence_separator_token": None if policy.separator == "none" else policy.separator,
        "seqpos_slice": extra.get("seqpos_slice") or [None],
        "neuronpedia_id": metadata.neuronpedia_id,
        "model_from_pretrained_kwargs": metadata.processing,
        "sae_lens_version": SAELENS_VERSION,
        "sae_lens_training_version": SAELENS_VERSION,
    }
    legacy = {
        "activation_fn_str": "topk" if cfg.architecture == "topk" else "relu",
        "activation_fn_kwargs": {"k": ours["k"]} if "k" in ours else {},
        "finetuning_scaling_factor": False,
        "hook_layer": next((int(part) for part in (metadata.hook_name or "").split(".") if part.isdigit()), 0),
        "dataset_trust_remote_code": False,
    }
    by_head = (metadata.hook_name or "").endswith("attn.hook_z")  # where TransformerLens gives heads apart
    saelens = {**ours, "reshape_activations": "hook_z" if by_head else "none", "device": "cpu"}
    older = {**shared, "model_name": metadata.model_name or "", "hook_name": metadata.hook_name or ""}  # must be text
    written = {"hook_name_out": metadata.hook_name_out} if metadata.hook_name_out else {}
    named = {"architecture": cfg.architecture, "sae_platform_version": version("sae-platform")}
    theirs = {**extra, **shared, **written, **named}
    plugin = installed_plugins().owner(type(cfg))
    return {**legacy, **older, **saelens, "metadata": theirs, "sae_platform": ours, "sae_platform_plugin": plugin}


def understood(content: Mapping[str, Any]) -> SAEConfig:
    """The configuration that cfg.json describes. PlatformError naming what cannot be kept."""
    if "sae_platform" in content:
        architecture, plugin = content["sae_platform"].get("architecture"), content.get("sae_platform_plugin")
        if plugin not in (None, DISTRIBUTION) and architecture not in installed_plugins().kinds(SAEConfig):
            raise PlatformError(
                f"its architecture {architecture!r} comes from the plugin {plugin}, which is not installed or not "
                f"loaded here: pip install {plugin}, or see `sae-platform plugins`."
            )
        return SAEConfig.model_validate(content["sae_platform"])
    fields = dict(content) if "metadata" in content else _as_in_6(content)
    architecture = str(fields.get("architecture", "standard"))
    fields["architecture"] = architecture = "jumprelu" if architecture in BATCH_TOPK else architecture
    if architecture == "topk":
        fields.setdefault("rescale_acts_by_decoder_norm", False)
    chosen = SAEConfig._chosen({"architecture": architecture}, None)
    known = {key: value for key, value in fields.items() if key in chosen.model_fields and value is not None}
    known["dtype"] = dtype_name(str(fields.get("dtype", "float32")))
    if known.get("normalize_activations") == "expected_average_only_in":
        raise PlatformError(
            "its inputs were scaled by a factor in training (normalize_activations = expected_average_only_in) that is "
            "not in the folder; fold it with SAELens, or load the SAE by its release, where the registry may know it."
        )
    return chosen(**{**known, "metadata": SAEMetadata.model_validate(_with_policy(fields["metadata"]))})


def _with_policy(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """SAELens' metadata with what it says of the tokens in one place."""
    left = {key: value for key, value in metadata.items() if key not in POLICY}
    said = {key: metadata[key] for key in POLICY if key in metadata}
    if not said:
        return left
    separator = said.get("sequence_separator_token", DEFAULT.separator)
    policy = TokenPolicy(
        prepend_bos=said.get("prepend_bos", True) is not False,
        exclude_special_tokens=bool(said.get("exclude_special_tokens")),
        separator="none" if separator is None else "eos" if separator == "eos" else "bos",
    )
    return {**left, "token_policy": policy}


def corrected(content: Mapping[str, Any], corrections: Mapping[str, Any]) -> dict[str, Any]:
    """The content of cfg.json with other entries in place of its own, in its metadata too where it has them nested."""
    nested = {"metadata": {**content["metadata"], **corrections}} if isinstance(content.get("metadata"), dict) else {}
    ours = content.get("sae_platform")
    if isinstance(ours, dict):
        settings = {key: value for key, value in corrections.items() if key in ours}
        metadata = {key: value for key, value in corrections.items() if key not in ours}
        nested["sae_platform"] = {**ours, **settings, "metadata": {**ours.get("metadata", {}), **metadata}}
    return {**content, **corrections, **nested}


def adjusted(content: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a folder with what only older SAELens had folded into the others, without changing any output."""
    found = dict(tensors)
    if "sae_platform" in content:
        return found
    if "log_threshold" in found and "threshold" not in found:
        found["threshold"] = found.pop("log_threshold").exp()
    if content.get("architecture") in BATCH_TOPK and "topk_threshold" in found:
        found = _as_jumprelu(found, bool(content.get("rescale_acts_by_decoder_norm")))
    scale = found.pop("scaling_factor", None)
    if scale is not None and not torch.equal(scale, torch.ones_like(scale)):
        raise PlatformError("its scaling_factor is not 1 everywhere, which no architecture here has.")
    scale = found.pop("finetuning_scaling_factor", None)
    if scale is not None and content.get("finetuning_scaling_factor") and "W_dec" in found:
        found["W_dec"] = found["W_dec"] * scale[:, None]
    return found


def _as_jumprelu(tensors: Mapping[str, Tensor], rescaled: bool) -> dict[str, Tensor]:
    """A BatchTopK SAE in training as the JumpReLU one that it becomes, with its running threshold for all features."""
    found = dict(tensors)
    threshold = found.pop("topk_threshold")
    if rescaled:
        norms = found["W_dec"].norm(dim=-1)
        found["W_enc"], found["b_enc"] = found["W_enc"] * norms, found["b_enc"] * norms
        found["W_dec"] = found["W_dec"] / norms[:, None]
    return {**found, "threshold": threshold.to(found["b_enc"].dtype).expand_as(found["b_enc"])}


def dtype_name(name: str) -> str:
    """A dtype as we write it. PlatformError when it is none that weights have."""
    name = name.removeprefix("torch.")
    if name not in DTYPES:
        raise PlatformError(f"dtype {name!r} is not known. Known: {choices(DTYPES)}.")
    return name


def _as_in_6(content: Mapping[str, Any]) -> dict[str, Any]:
    """The flat shape of SAELens 3 to 5 (and the names of 1 and 2) in the words of 6."""
    fields = {OLDER_NAMES.get(key, key): value for key, value in content.items()}
    activation = str(fields.get("activation_fn_str") or "relu")
    settings = dict(fields.get("activation_fn_kwargs") or {})
    if activation == "topk":
        fields["architecture"], fields["k"] = "topk", settings.pop("k", None)
        if not settings.get("signed"):
            settings.pop("signed", None)
    if activation not in ("relu", "topk"):
        raise PlatformError(f"its activation function is {activation!r}, and only relu and topk are known here.")
    if settings:
        raise PlatformError(f"its activation function has settings that no architecture here has: {settings}.")
    normalization = fields.get("normalize_activations") or "none"
    fields["normalize_activations"] = "expected_average_only_in" if normalization is True else normalization
    fields["metadata"] = {key: fields[key] for key in OLD_METADATA if fields.get(key) is not None}
    return fields
