"""A run file: what to train, on what, and how; each table is validated by the class that its kind names."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import tomli_w
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SerializeAsAny,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from sae_platform.components import ActivationSourceConfig, ComponentConfig, LoggerConfig, Precision, SAEConfig
from sae_platform.errors import PlatformError, choices, nearest
from sae_platform.plugins import PluginHost, installed_plugins

DEFAULT_SOURCE = {"kind": "transformers"}
DEFAULT_SAE = {"architecture": "topk", "d_sae": 3072, "normalize_activations": "expected_average_only_in"}

Beta = Annotated[float, Field(ge=0, lt=1)]


class TrainingConfig(BaseModel):
    """How to train."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    tokens: PositiveInt = Field(1_000_000, description="activations to train on, exactly; each is used once")
    batch_size: PositiveInt = Field(2048, description="activations in a step")
    lr: PositiveFloat = Field(3e-3, description="learning rate of Adam, at its height")
    lr_schedule: Literal["constant", "cosine"] = Field("constant", description="between warm-up and decay")
    lr_warm_up_steps: NonNegativeInt = Field(50, description="steps of linear rise at the start")
    lr_decay_steps: NonNegativeInt | None = Field(
        None, description="steps of linear fall to zero at the end; default a fifth"
    )
    adam_betas: tuple[Beta, Beta] = (0.9, 0.999)
    adam_eps: PositiveFloat = 1e-8
    clip_grad_norm: NonNegativeFloat = Field(1.0, description="largest norm of the gradient; 0: no clipping")
    seed: int = Field(0, ge=0, lt=2**63, description="of the weights, the order of the data and the shuffling")
    device: str = Field("cpu", description="of the SAE and the shuffle buffer")
    dtype: Literal["float32", "float64", "bfloat16"] = Field(
        "float32", description="of the SAE's weights (Adam's second moments vanish in float16)"
    )
    precision: Precision = Field(
        "full",
        description="of the products in a step: full (the dtype of the weights), tf32 (on CUDA), or bfloat16 for the "
        "encoder's product and tf32 for the others; weights, gradients and Adam keep their dtype",
    )
    buffer: PositiveInt | str = Field(131_072, description='shuffle buffer: tokens (131072) or memory ("2GB")')
    sparse_below: float | None = Field(
        None, ge=0, description="density of features below which a step runs on them alone; default: the device's"
    )
    dead_feature_window: PositiveInt = Field(100_000, description="a feature silent for this many tokens is dead")
    dead_feature_threshold: NonNegativeFloat = Field(
        0.0,
        description="a feature that fired on a smaller share of the last feature_sampling_window tokens is dead too",
    )
    feature_sampling_window: PositiveInt = Field(
        10_000_000, description="tokens over which the share is taken that dead_feature_threshold is held to"
    )
    log_every: PositiveInt = Field(10, description="steps between records of the metrics")
    checkpoint_every: NonNegativeInt = Field(1000, description="steps between checkpoints; 0: only when interrupted")
    keep_checkpoints: PositiveInt = Field(2, description="older checkpoints are removed")

    @field_validator("buffer", mode="before")
    @classmethod
    def _buffer_is_a_size(cls, size: Any) -> Any:
        if isinstance(size, str) or (type(size) is int and size > 0):
            return size
        raise ValueError(f'needs a number of tokens (131072) or memory ("2GB"), not {size!r}')

    @model_validator(mode="after")
    def _tf32_is_on_cuda(self) -> Self:
        if self.precision == "tf32" and not self.device.startswith("cuda"):
            raise ValueError(f'precision is "tf32", which only CUDA has, and the device is {self.device!r}')
        return self

    @property
    def steps(self) -> int:
        """Steps in the run; the last may be on a smaller batch."""
        return -(-self.tokens // self.batch_size)


class EvaluationConfig(BaseModel):
    """How to evaluate on held-out data."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    tokens: PositiveInt = Field(100_000, description="held-out activations for reconstruction, sparsity and densities")
    preservation_tokens: NonNegativeInt = Field(
        32_768, description="held-out tokens on which the model runs with the SAE in it; 0: not measured"
    )
    every: NonNegativeInt = Field(
        0, description="steps between measurements of model preservation while training; 0: only at the end"
    )
    tokens_while_training: PositiveInt = Field(4096, description="held-out tokens for each of these")


class RunConfig(BaseModel):
    """Everything a run depends on. `RunConfig()` is the embedded default: a TopK SAE on tinypy."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    source: SerializeAsAny[ActivationSourceConfig]
    sae: SerializeAsAny[SAEConfig]
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    loggers: tuple[SerializeAsAny[LoggerConfig], ...] = ()

    def __init__(self, **tables: Any) -> None:  # any table may be left out, or be a plain dict
        super().__init__(**tables)

    @model_validator(mode="before")
    @classmethod
    def _fill_defaults(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        filled = dict(data)
        for table, default in (("source", DEFAULT_SOURCE), ("sae", DEFAULT_SAE)):
            given = data.get(table, {})
            filled[table] = {**default, **given} if isinstance(given, dict) else given
        return filled

    @field_validator("sae", mode="before")
    @classmethod
    def _architecture_is_trainable(cls, sae: Any, info: ValidationInfo) -> Any:
        plugins = (info.context or {}).get("plugins") or installed_plugins()
        kinds = plugins.kinds(SAEConfig)
        chosen = kinds.get(str(sae.get("architecture"))) if isinstance(sae, dict) else sae
        if chosen is not None and not getattr(chosen, "trainable", True):
            trained = choices(kind for kind, config in kinds.items() if config.trainable)
            raise ValueError(f"SAEs of this architecture are loaded and used here, not trained. Trained: {trained}")
        return sae

    @model_validator(mode="after")
    def _one_place_for_device_and_dtype(self) -> Self:
        for name in ("device", "dtype"):
            if name in self.sae.model_fields_set and getattr(self.sae, name) != getattr(self.training, name):
                raise ValueError(f"sae.{name} and training.{name} disagree; set training.{name} alone")
        return self

    def to_toml(self) -> str:
        """The run file that gives this run again; what the run fills in itself is left out."""
        tables = self.model_dump(mode="json", exclude={"sae": {"metadata", "device", "dtype"}})
        return tomli_w.dumps(_without_none(tables))


def read_run(
    file: str | Path | None = None, settings: Sequence[str] = (), plugins: PluginHost | None = None
) -> RunConfig:
    """A run from a TOML file (none: the embedded default) and settings like `training.tokens=2_000_000`.

    Raises PlatformError naming the file, the key, what is wrong with it and the nearest valid choice.
    """
    tables: dict[str, Any] = {}
    if file is not None:
        try:
            tables = tomllib.loads(Path(file).read_text(encoding="utf-8"))
        except OSError as error:
            raise PlatformError(f"The run file {file} cannot be read: {error.strerror}.") from error
        except ValueError as error:
            raise PlatformError(f"{file} is not valid TOML: {error}.") from error
    for setting in settings:
        _set(tables, setting)
    return validated(tables, plugins or installed_plugins(), str(file) if file else None)


def validated(tables: Mapping[str, Any], plugins: PluginHost, file: str | None = None) -> RunConfig:
    """A run from the tables of a run file; PlatformError lists every problem with its path."""
    try:
        return RunConfig.model_validate(dict(tables), context={"plugins": plugins})
    except ValidationError as error:
        problems = list(_explained(error, tables, plugins))
        raise PlatformError("\n".join(f"{file}: {p}" if file else p for p in problems)) from error


def json_schema(plugins: PluginHost) -> dict[str, Any]:
    """The JSON schema of a run file, with every installed kind of part."""
    schema = RunConfig.model_json_schema()
    definitions = schema.setdefault("$defs", {})

    def any_of(role: type[ComponentConfig], defaults: Mapping[str, Any]) -> dict[str, Any]:
        options = []
        for config in plugins.kinds(role).values():
            if not getattr(config, "trainable", True):
                continue
            part = config.model_json_schema(ref_template="#/$defs/{model}")
            definitions.update(part.pop("$defs", {}))
            part["required"] = [key for key in part.get("required", []) if key not in defaults]
            definitions[config.__name__] = part
            options.append({"$ref": f"#/$defs/{config.__name__}"})
        return {"anyOf": options} if options else {"not": {}}

    for table, role, default in (
        ("source", ActivationSourceConfig, DEFAULT_SOURCE),
        ("sae", SAEConfig, DEFAULT_SAE),
    ):
        schema["properties"][table] = {**any_of(role, default), "default": default}
    schema["properties"]["loggers"] = {"type": "array", "items": any_of(LoggerConfig, {}), "default": []}
    for role_name in ("ActivationSourceConfig", "SAEConfig", "LoggerConfig"):
        definitions.pop(role_name, None)
    schema["required"] = []
    return schema


def _set(tables: dict[str, Any], setting: str) -> None:
    key, equals, text = setting.partition("=")
    path = key.strip().split(".")
    if not equals or not all(path):
        raise PlatformError(f"--set {setting!r} is not table.key=value, for example training.tokens=2_000_000.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except ValueError:
        value = text.strip()  # a bare word: sae.architecture=gated
    *parents, last = path
    for parent in parents:
        tables = tables.setdefault(parent, {})
        if not isinstance(tables, dict):
            raise PlatformError(f"--set {setting!r}: {parent} is not a table.")
    tables[last] = value


def _explained(error: ValidationError, tables: Mapping[str, Any], plugins: PluginHost) -> Iterator[str]:
    for problem in error.errors(include_url=False):
        path = ".".join(map(str, problem["loc"]))
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            owner, known = _known_keys(problem["loc"][:-1], tables, plugins)
            name = str(problem["loc"][-1])
            yield f"{path} is not a setting{owner}.{nearest(name, known)} Settings: {choices(known)}."
        elif problem["type"] == "missing":
            yield f"{path} is missing."
        elif problem["type"] == "value_error":
            yield f"{path}: {message}" if path else message
        else:
            yield f"{path}: {message[0].lower()}{message[1:]}, not {problem['input']!r}."


def _known_keys(location: tuple[int | str, ...], tables: Any, plugins: PluginHost) -> tuple[str, list[str]]:
    """What may stand at a place in a run file, and whose settings these are."""
    model: type[BaseModel] = RunConfig
    owner = ""
    for part in location:
        tables = tables[part] if not isinstance(tables, Mapping) else tables.get(part, {})
        if isinstance(part, str):
            model = _model_in(model.model_fields[part].annotation) or model
        if issubclass(model, ComponentConfig) and model.is_role() and isinstance(tables, Mapping):
            defaults = {**DEFAULT_SOURCE, **DEFAULT_SAE}
            kind = str(tables.get(model.selector, defaults.get(model.selector)))
            owner = f" of {model.role} {kind!r}"
            model = plugins.find(model, kind)
        elif model is not RunConfig:
            owner = f" of [{location[0]}]" if len(location) == 1 else f" of {'.'.join(map(str, location))}"
    return owner, list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for argument in get_args(annotation) if (found := _model_in(argument))), None)


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_none(item) for item in value]
    return value
