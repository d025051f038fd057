"""SAELens' words for the settings of a run: those that have another name here, and those that are not here."""

from __future__ import annotations

import warnings
from typing import Any

from sae_platform.errors import PlatformError, choices, nearest

SCHEDULES = {"constant": "constant", "cosineannealing": "cosine"}
RENAMED = {"decoder_heuristic_init_norm": "decoder_init_norm"}
OF_SAES = {  # of the configuration of an SAE in SAELens 6
    "jumprelu_init_threshold": "threshold_init",
    "jumprelu_bandwidth": "bandwidth",
    "jumprelu_sparsity_loss_mode": "sparsity_loss",
    "jumprelu_tanh_scale": "tanh_scale",
}
NO, NONE = (False,), (None,)
NOT_HERE: dict[str, tuple[tuple[Any, ...], str]] = {  # values that mean what happens here, and what that is
    "activations_mixing_fraction": ((), "the shuffle buffer serves every activation once, in random order"),
    "autocast": (NO, "training.precision of a run file chooses how products are computed"),
    "autocast_lm": (NO, "the model runs in `dtype`"),
    "cached_activations_path": (NONE, "activations are made while training"),
    "compile_llm": (NO, "models are not compiled"),
    "compile_sae": (NO, "steps run on the active features alone, uncompiled"),
    "dataset_trust_remote_code": ((True, False), "code of a dataset is never run"),
    "decoder_orthogonal_init": (NO, "decoder rows start random, of norm decoder_init_norm"),
    "disable_concat_sequences": (NO, "documents are joined and cut into contexts"),
    "finetuning_method": (NONE, "SAEs are not finetuned"),
    "finetuning_tokens": ((0,), "SAEs are not finetuned"),
    "from_pretrained_path": (NONE, "SAEs start untrained"),
    "hook_eval": (("NOT_IN_USE",), "evaluation is at hook_name"),
    "hook_head_index": (NONE, "an SAE reads all heads of a hook"),
    "init_encoder_as_decoder_transpose": ((True,), "the encoder always starts so"),
    "llm_compilation_mode": (NONE, "models are not compiled"),
    "log_activations_store_to_wandb": (NO, "metrics alone are logged"),
    "log_optimizer_state_to_wandb": (NO, "metrics alone are logged"),
    "log_weights_to_wandb": (NO, "metrics alone are logged"),
    "llm_device": (NONE, "the model is on `device`"),
    "lr_end": (NONE, "the learning rate falls to zero"),
    "model_class_name": (("AutoModelForCausalLM", "HookedTransformer", "TransformerBridge"),
                         "models are loaded by transformers; hooks have TransformerLens' names"),
    "model_kwargs": (({}, None), "models run as they are"),
    "mse_loss_normalization": (NONE, "use normalize_activations"),
    "n_restart_cycles": ((1,), "there is one cycle"),
    "noise_scale": ((0,), "no noise is added"),
    "normalize_sae_decoder": (NO, "decoder norms are part of the penalty instead"),
    "resume": (NO, "runs are not resumed"),
    "resume_from_checkpoint": (NONE, "runs are not resumed"),
    "sae_compilation_mode": (NONE, "steps run on the active features alone, uncompiled"),
    "scale_sparsity_penalty_by_decoder_norm": ((True,), "the penalty always is"),
    "seqpos_slice": (((None,), [None], None), "all positions of a context count"),
    "use_chat_formatting": (NO, "texts are tokenized as they are"),
    "use_cached_activations": (NO, "activations are made while training"),
    "verbose": ((True, False), "a run says what it does in its own events"),
}  # fmt: skip
DIFFERENT = {  # what is done here whatever is said, which is worth a warning and no error
    "decoder_heuristic_init": (True, "decoder rows start random, of norm decoder_init_norm"),
    "is_dataset_tokenized": (False, "the text column is tokenized while training"),
    "output_path": (None, "an SAE is saved in its run's folder, under checkpoint_path"),
    "save_final_checkpoint": (False, "an SAE is saved at the end of every run"),
    "act_store_device": ("with_model", "activations are kept on `device`"),
    "b_dec_init_method": ("mean", "b_dec starts at the mean of the data"),
    "n_batches_for_norm_estimate": (None, "the norm is estimated on the first batch, a sample of the whole buffer"),
}


def in_our_words(settings: dict[str, Any], known: list[str]) -> dict[str, Any]:
    """Settings under the names that they have here.

    PlatformError for those that mean what is not done here, and for unknown ones, with the nearest; a warning for those
    without effect.
    """
    ours: dict[str, Any] = {}
    for name, value in settings.items():
        if name in NOT_HERE:
            same, why = NOT_HERE[name]
            if value not in same:
                raise PlatformError(
                    f"{name} = {value!r} is a setting of SAELens that is not here: {why}. Leave it out."
                )
        elif name in DIFFERENT:
            same_value, why = DIFFERENT[name]
            if value != same_value:
                warnings.warn(f"{name} = {value!r} has no effect: {why}.", stacklevel=3)
        elif name not in known and name not in RENAMED:
            raise PlatformError(f"{name} is not a setting of a run.{nearest(name, known)} Settings: {choices(known)}.")
        else:
            ours[RENAMED.get(name, name)] = value
    return ours
