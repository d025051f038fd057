"""One flat configuration of a run, in the words of SAELens; there is one trainer behind it."""

from __future__ import annotations

import warnings
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveFloat, PositiveInt, ValidationError

from sae_platform.components import LoggerConfig, Normalization, SAEConfig
from sae_platform.config import RunConfig
from sae_platform.errors import PlatformError, choices
from sae_platform.saelens.words import SCHEDULES, in_our_words

OLD_SCALE = 0.01  # an l1_coefficient below it was chosen for an error averaged over d_in
REVIVED = {
    "topk": "AuxK (aux_loss_coefficient) revives dead features",
    "gated": "its auxiliary reconstruction keeps features alive",
    "jumprelu": "pre_act_loss_coefficient revives dead features",
}


class LoggingConfig(BaseModel):
    """Where the metrics of a run go besides its own database."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    log_to_wandb: bool = True
    wandb_project: str = "sae_lens_training"
    wandb_entity: str | None = None
    wandb_id: str | None = None
    run_name: str | None = None
    wandb_log_frequency: PositiveInt = 10
    eval_every_n_wandb_logs: PositiveInt = 100


class LanguageModelSAERunnerConfig(LoggingConfig):
    """A training run, in the words of SAELens 3 to 5; of 6 too, with `sae=` and `logger=`.

    `to_run_config()` says what each of them means here. PlatformError for unknown words, with the nearest known one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    # the model, and the place in it
    model_name: str = "tinypy"  # embedded; any Hugging Face name or local folder
    hook_name: str = "blocks.1.hook_resid_post"
    hook_layer: int | None = None  # held to hook_name
    model_from_pretrained_kwargs: dict[str, Any] | None = None  # {"center_writing_weights": True}: centred
    d_in: PositiveInt | None = None  # held to the width of the activations
    # text
    dataset_path: str = "stdlib"  # Python's own source code; any dataset's name, file or folder
    streaming: bool = True
    context_size: PositiveInt = 128
    prepend_bos: bool = True
    exclude_special_tokens: bool = False
    sequence_separator_token: Literal["bos", "eos"] | None = "bos"
    # the SAE
    architecture: str = "standard"
    d_sae: PositiveInt | None = None
    expansion_factor: PositiveInt | None = None  # d_sae = expansion_factor x d_in; 4 when neither is given
    activation_fn: str | None = None  # the architecture's own
    activation_fn_kwargs: dict[str, Any] | None = None  # {"k": 50} for topk; 100 when not given
    normalize_activations: Normalization = "none"
    apply_b_dec_to_input: bool = True
    decoder_init_norm: float | None = 0.1
    jumprelu_init_threshold: PositiveFloat = 0.01
    jumprelu_bandwidth: PositiveFloat = 0.05
    sae: SAEConfig | None = None  # all of these at once
    # what is minimised
    mse_reduction: Literal["sum", "mean"] = "sum"  # over d_in; l1_coefficient is relative to it
    l1_coefficient: float | None = None  # of l0 for jumprelu; the architecture's own when not given
    lp_norm: PositiveFloat = 1.0
    l1_warm_up_steps: NonNegativeInt = 0
    use_ghost_grads: bool = False
    # steps
    training_tokens: PositiveInt = 2_000_000
    train_batch_size_tokens: PositiveInt = 4096
    store_batch_size_prompts: PositiveInt = 32
    n_batches_in_buffer: PositiveInt = 20  # the buffer holds this x store_batch_size_prompts x context_size tokens
    lr: PositiveFloat = 3e-4
    lr_scheduler_name: str = "constant"  # or cosineannealing
    lr_warm_up_steps: NonNegativeInt = 0
    lr_decay_steps: NonNegativeInt = 0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    seed: NonNegativeInt = 42
    device: str = "cpu"  # of the model, the buffer and the SAE
    dtype: Literal["float32", "float64", "bfloat16"] = "float32"  # of the SAE and of the activations
    # dead features: silent for dead_feature_window steps, or rarer than the threshold in feature_sampling_window steps
    dead_feature_window: PositiveInt = 1000
    feature_sampling_window: PositiveInt = 2000
    dead_feature_threshold: float = 1e-8
    # how often, and on how much held-out text, it is measured how well the model keeps working with the SAE in it
    n_eval_batches: PositiveInt = 10
    eval_batch_size_prompts: PositiveInt | None = None  # store_batch_size_prompts
    # where it goes, besides what a LoggingConfig says
    log_to_wandb: bool = False
    logger: LoggingConfig | None = None  # all of these at once
    checkpoint_path: str = "checkpoints"  # the folder of runs
    n_checkpoints: NonNegativeInt = 0

    def __init__(self, **settings: Any) -> None:
        if settings.get("checkpoint_path", "") is None:
            del settings["checkpoint_path"]
        if isinstance(settings.get("dtype"), str):
            settings["dtype"] = settings["dtype"].removeprefix("torch.")
        settings = in_our_words(settings, list(type(self).model_fields))
        try:
            super().__init__(**settings)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise PlatformError(
                f"{'.'.join(map(str, first['loc']))}: {first['msg']}, not {first['input']!r}."
            ) from error
        self._check(settings)

    def to_run_config(self) -> RunConfig:
        """The run that this describes. PlatformError for what does not fit together."""
        logging = self.logger or self
        batch = self.train_batch_size_tokens
        steps = -(-self.training_tokens // batch)
        source = {
            "kind": "transformers", "model": self.model_name, "dataset": self.dataset_path, "streaming": self.streaming,
            "hook_name": self.hook_name, "context_size": self.context_size, "batch_size": self.store_batch_size_prompts,
            "dtype": self.dtype, "device": self.device, "center_writing_weights": self._centres(),
            "token_policy": {
                "prepend_bos": self.prepend_bos, "exclude_special_tokens": self.exclude_special_tokens,
                "separator": self.sequence_separator_token or "none",
            },
        }  # fmt: skip
        training = {
            "tokens": self.training_tokens, "batch_size": batch, "lr": self.lr,
            "lr_schedule": SCHEDULES[self.lr_scheduler_name.lower()], "lr_warm_up_steps": self.lr_warm_up_steps,
            "lr_decay_steps": self.lr_decay_steps, "adam_betas": (self.adam_beta1, self.adam_beta2), "seed": self.seed,
            "device": self.device, "dtype": self.dtype,
            "buffer": max(batch, self.n_batches_in_buffer * self.store_batch_size_prompts * self.context_size),
            "dead_feature_window": self.dead_feature_window * batch,
            "feature_sampling_window": self.feature_sampling_window * batch,
            "dead_feature_threshold": self.dead_feature_threshold, "log_every": logging.wandb_log_frequency,
            "checkpoint_every": max(1, steps // self.n_checkpoints) if self.n_checkpoints else 0,
            "keep_checkpoints": max(1, self.n_checkpoints),
        }  # fmt: skip
        loggers = [] if not logging.log_to_wandb else [_wandb(logging)]
        sae = self.sae if self.sae is not None else {"d_in": self.d_in, **self._sae()}
        prompts = self.eval_batch_size_prompts or self.store_batch_size_prompts
        evaluation = {
            "every": logging.eval_every_n_wandb_logs * logging.wandb_log_frequency,
            "tokens_while_training": self.n_eval_batches * prompts * self.context_size,
        }  # fmt: skip
        return RunConfig(source=source, sae=sae, training=training, evaluation=evaluation, loggers=loggers)

    def _centres(self) -> bool:
        """Whether the residual stream is read as it is with centred weights."""
        asked = [name for name, value in (self.model_from_pretrained_kwargs or {}).items() if value]
        if others := [name for name in asked if name != "center_writing_weights"]:
            raise PlatformError(
                f"model_from_pretrained_kwargs has {choices(others)}, and only center_writing_weights is here."
            )
        return bool(asked)

    def _check(self, given: dict[str, Any]) -> None:
        if self.d_sae is not None and self.expansion_factor is not None:
            raise PlatformError("d_sae and expansion_factor say the same thing; give one of them.")
        if self.expansion_factor is not None and self.d_in is None:
            raise PlatformError("expansion_factor multiplies d_in: give d_in too, or d_sae instead of both.")
        if self.lr_scheduler_name.lower() not in SCHEDULES:
            raise PlatformError(f"lr_scheduler_name is {self.lr_scheduler_name!r}. Known: {choices(SCHEDULES)}.")
        layers = [int(part) for part in self.hook_name.split(".") if part.isdigit()]
        if self.hook_layer is not None and layers and self.hook_layer not in layers:
            raise PlatformError(
                f"hook_layer is {self.hook_layer}, but hook_name {self.hook_name!r} is of layer {layers[0]}."
            )
        for whole, parts in (("sae", SAE_PARTS), ("logger", LOGGER_PARTS)):
            if given.get(whole) is not None and (both := sorted(parts & given.keys())):
                raise PlatformError(f"{choices(both)} stands beside {whole}=, which holds it; give it there.")
        wanted = "topk" if self.architecture in ("topk", "abstopk") else "relu"
        if self.sae is None and self.activation_fn not in (None, wanted):
            raise PlatformError(
                f"activation_fn is {self.activation_fn!r}, but {self.architecture} fires by {wanted}. "
                'Leave it out, or choose architecture="topk" for topk.'
            )

    def _sae(self) -> dict[str, Any]:
        d_sae = self.d_sae or (self.expansion_factor or 4) * (self.d_in or 0) or None
        settings: dict[str, Any] = {
            "architecture": self.architecture, "normalize_activations": self.normalize_activations,
            "apply_b_dec_to_input": self.apply_b_dec_to_input, "decoder_init_norm": self.decoder_init_norm,
            **self._of_architecture(),
        }  # fmt: skip
        return settings if d_sae is None else {**settings, "d_sae": d_sae}

    def _of_architecture(self) -> dict[str, Any]:
        """The settings that only the architecture has."""
        if self.use_ghost_grads and self.architecture in REVIVED:
            warnings.warn(
                f"Ghost gradients are of the standard architecture; in {self.architecture}, "
                f"{REVIVED[self.architecture]}.", stacklevel=4,
            )  # fmt: skip
        weight, warm_up = self._coefficient(), self.l1_warm_up_steps
        own: dict[str, dict[str, Any]] = {
            "standard": {"l1_coefficient": weight, "lp_norm": self.lp_norm, "l1_warm_up_steps": warm_up,
                         "use_ghost_grads": self.use_ghost_grads},
            "gated": {"l1_coefficient": weight, "l1_warm_up_steps": warm_up},
            "jumprelu": {"l0_coefficient": weight, "l0_warm_up_steps": warm_up, "bandwidth": self.jumprelu_bandwidth,
                         "threshold_init": self.jumprelu_init_threshold},
            "topk": {"k": 100}, "abstopk": {"k": 100},
        }  # fmt: skip
        settings = own.get(self.architecture, {})
        return {name: value for name, value in settings.items() if value is not None} | (
            self.activation_fn_kwargs or {}
        )

    def _coefficient(self) -> float | None:
        """The weight of the sparsity term beside an error that is summed over d_in."""
        if self.l1_coefficient is None:
            return None
        if self.mse_reduction == "mean":
            if self.d_in is None:
                raise PlatformError('mse_reduction="mean" divides by d_in: give d_in too.')
            return self.l1_coefficient * self.d_in
        if 0 < self.l1_coefficient < OLD_SCALE and self.architecture in ("standard", "gated"):
            equivalent = f"{self.l1_coefficient} x d_in" + (
                f" = {self.l1_coefficient * self.d_in:.3g}" if self.d_in else ""
            )
            warnings.warn(
                f"l1_coefficient = {self.l1_coefficient} is of the size for an error that is averaged over d_in. Here "
                f"it is summed, as in SAELens since 1.8: the same sparsity needs {equivalent}. Give that, or "
                'mse_reduction="mean".', stacklevel=5,
            )  # fmt: skip
        return self.l1_coefficient


SAE_PARTS = {
    "architecture", "d_sae", "expansion_factor", "activation_fn", "activation_fn_kwargs", "normalize_activations",
    "apply_b_dec_to_input", "decoder_init_norm", "jumprelu_init_threshold", "jumprelu_bandwidth", "l1_coefficient",
    "lp_norm", "l1_warm_up_steps", "use_ghost_grads", "d_in",
}  # fmt: skip
LOGGER_PARTS = set(LoggingConfig.model_fields)


def _wandb(logging: LoggingConfig) -> LoggerConfig:
    return LoggerConfig.model_validate(
        {"kind": "wandb", "project": logging.wandb_project, "entity": logging.wandb_entity, "name": logging.run_name,
         "id": logging.wandb_id}
    )  # fmt: skip
