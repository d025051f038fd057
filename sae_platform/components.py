"""What a plugin offers: frozen config classes, each named by its kind, that build the part."""

from __future__ import annotations

from abc import ABC
from collections.abc import Container, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PositiveInt,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from sae_platform.errors import PlatformError, choices, nearest

if TYPE_CHECKING:
    from torch import Tensor

    from sae_platform.activations import ActivationSource
    from sae_platform.loggers import Logger
    from sae_platform.plugins import PluginHost
    from sae_platform.releases import ReleasedSAE
    from sae_platform.sae import SAE

Dtype = Literal["float32", "float64", "bfloat16", "float16"]
Precision = Literal["full", "tf32", "bfloat16"]  # of the products in a training step; full: the dtype of the weights
Normalization = Literal["none", "expected_average_only_in", "layer_norm", "constant_norm_rescale"]


class ComponentConfig(BaseModel, ABC):
    """Settings of one part. Naming a role's base class (`SAEConfig(architecture="topk", ...)`) gives the class that
    the kind stands for among the installed plugins; so does validating a table of a run file."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    role: ClassVar[str]
    selector: ClassVar[str] = "kind"

    def __new__(cls, *_: Any, **data: Any) -> Self:
        return super().__new__(cls._chosen(data, None) if cls.is_role() else cls)

    @model_validator(mode="wrap")
    @classmethod
    def _dispatch(cls, value: Any, handler: ModelWrapValidatorHandler[Self], info: ValidationInfo) -> Self:
        if not cls.is_role() or isinstance(value, cls):
            try:
                return handler(value)
            except ValidationError as error:
                raise cls._with_nearest(error) from None
        if not isinstance(value, dict):
            raise ValueError(f"needs a table that names its {cls.selector}")
        try:
            chosen = cls._chosen(value, (info.context or {}).get("plugins"))
        except PlatformError as error:
            raise ValueError(str(error)) from error
        return chosen.model_validate(value, context=info.context)

    @classmethod
    def _with_nearest(cls, error: ValidationError) -> ValidationError:
        """The error, with the nearest known name beside each unknown one."""

        def detail(each: Any) -> InitErrorDetails:
            kind, place, value = each["type"], each["loc"], each["input"]
            if kind == "extra_forbidden" and len(place) == 1:
                near = nearest(str(place[0]), cls.model_fields)
                kind = PydanticCustomError("extra_forbidden", f"Not a setting of {cls.__name__}.{near}")
            return {"type": kind, "loc": place, "input": value, "ctx": each.get("ctx", {})}

        details = [detail(each) for each in error.errors(include_url=False)]
        return ValidationError.from_exception_data(error.title, details)

    @classmethod
    def _chosen(cls, data: dict[str, Any], host: PluginHost | None) -> type[Self]:
        from sae_platform.plugins import installed_plugins

        host = host or installed_plugins()
        kind = data.get(cls.selector)
        if not isinstance(kind, str):
            raise PlatformError(f"{cls.selector} is missing. Installed: {choices(host.kinds(cls))}.")
        return host.find(cls, kind)

    @classmethod
    def is_role(cls) -> bool:
        """Whether this is a role (an architecture, a source) and not one kind of it."""
        return "role" in cls.__dict__

    @classmethod
    def fixed_kind(cls) -> str:
        """The word that selects this class; TypeError when the class does not fix one."""
        field = cls.model_fields.get(cls.selector)
        if field is None or not isinstance(field.default, str):
            raise TypeError(f'{cls.__name__} needs a field {cls.selector}: Literal["name"] = "name".')
        return field.default


class TokenPolicy(BaseModel):
    """Which tokens a context is made of and whose activations count; the same in training, evaluation and use."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    context_size: PositiveInt | None = Field(
        None, description="tokens in a context; filled from the source's context_size"
    )
    prepend_bos: bool = Field(default=True, description="every context begins with the beginning-of-sequence token")
    exclude_special_tokens: bool = Field(
        True, description="activations of special tokens (attention sinks) are left out"
    )
    separator: Literal["eos", "bos", "none"] = Field(
        default="eos", description="the token put between packed documents"
    )


class SAEMetadata(BaseModel):
    """Where an SAE comes from: enough to put it back into its model. Unknown entries are kept."""

    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=())
    model_name: str | None = Field(default=None, description="name or path of the model, as transformers loads it")
    model_revision: str | None = Field(default=None, description="commit of the model on the hub, where known")
    hook_name: str | None = Field(default=None, description="where in the model the activations are")
    hook_name_out: str | None = Field(default=None, description="where a transcoder writes")
    model_from_pretrained_kwargs: dict[str, Any] | None = Field(
        default=None, description="how TransformerLens is to process the model's weights, in SAELens' words"
    )
    dataset_path: str | None = Field(default=None, description="the text it was trained on")
    context_size: int | None = None
    token_policy: TokenPolicy | None = None
    source: dict[str, Any] | None = Field(default=None, description="the whole [source] table of its run")
    neuronpedia_id: str | None = Field(default=None, description="{model}/{layer}-{set} on Neuronpedia")
    sae_platform_version: str | None = None

    @property
    def processing(self) -> dict[str, Any]:
        """How TransformerLens is to process the weights of the model, for its activations to be what the SAE reads."""
        return dict(self.model_from_pretrained_kwargs or {})

    @property
    def prepend_bos(self) -> bool:
        """Whether contexts began with a beginning-of-sequence token."""
        return (self.token_policy or TokenPolicy()).prepend_bos

    def __getitem__(self, name: str) -> Any:
        if not hasattr(self, name):
            raise KeyError(name)
        return getattr(self, name)

    def get(self, name: str, default: Any = None) -> Any:
        """An entry, or what is given instead."""
        return getattr(self, name, default)


class ArchitectureName(str):
    """A word that may be called, since `cfg.architecture` is one in SAELens before 6 and a method since."""

    __slots__ = ()

    def __call__(self) -> str:
        return str(self)


class SAEConfig(ComponentConfig):
    """Settings of one sparse autoencoder; its subclasses are the architectures.

    `SAEConfig(architecture="topk", d_in=512, d_sae=4096, k=32).build()` gives an untrained `SAE`. What `metadata` holds
    reads through: `cfg.hook_name` is `cfg.metadata.hook_name`.
    """

    model_config = ConfigDict(validate_default=True)
    role: ClassVar[str] = "architecture"
    selector: ClassVar[str] = "architecture"
    trainable: ClassVar[bool] = True  # whether its SAE takes training steps, or is loaded and used alone

    architecture: str
    d_in: PositiveInt | None = Field(
        default=None, description="width of the activations; a run takes it from its source"
    )
    d_sae: PositiveInt = Field(description="number of features")
    normalize_activations: Normalization = Field(
        default="none",
        description="scaling of the input: one constant estimated on data and folded into the saved weights "
        "(expected_average_only_in), or per token at run time (layer_norm, constant_norm_rescale)",
    )
    apply_b_dec_to_input: bool = Field(
        default=True, description="subtract the decoder bias from the input before encoding"
    )
    decoder_init_norm: float | None = Field(default=0.1, gt=0, description="norm of the decoder rows at the start")
    dtype: Dtype = Field(default="float32", description="of the weights at the start; sae.cfg reports their own")
    device: str = Field(default="cpu", description="of the weights at the start; sae.cfg reports their own")
    metadata: SAEMetadata = SAEMetadata()

    def __init__(self, **settings: Any) -> None:  # the settings depend on the architecture that is named
        super().__init__(**settings)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name.startswith("_"):
                return super().__getattr__(name)
            metadata = self.metadata
            known = {
                **(metadata.model_extra or {}),
                **{key: getattr(metadata, key) for key in SAEMetadata.model_fields},
            }
            known = {**dict(metadata.token_policy or TokenPolicy()), **known}
            if name not in known:
                words = [*type(self).model_fields, *known]
                raise AttributeError(f"{type(self).__name__} has no {name!r}.{nearest(name, words)}")
            return known[name]

    @field_validator("architecture", mode="after", check_fields=False)
    @classmethod
    def _callable(cls, architecture: str) -> str:
        return ArchitectureName(architecture)

    @property
    def hook_layer(self) -> int | None:
        """The layer in the name of its hook, or that of its metadata."""
        named = next((int(part) for part in (self.metadata.hook_name or "").split(".") if part.isdigit()), None)
        extra: int | None = (self.metadata.model_extra or {}).get("hook_layer")
        return extra if named is None else named

    @property
    def activation_fn_str(self) -> str:
        """What SAELens before 6 calls its activation function: topk or relu."""
        return "topk" if "k" in type(self).model_fields else "relu"

    @property
    def width(self) -> int:
        """d_in, once it is known. PlatformError before."""
        if self.d_in is None:
            raise PlatformError("d_in is not set: give the width of the activations, SAEConfig(..., d_in=512).")
        return self.d_in

    def build(self) -> SAE:
        """An untrained SAE on `device`, in `dtype`."""
        import torch

        return self.module()(self).to(device=self.device, dtype=getattr(torch, self.dtype))

    def module(self) -> type[SAE]:
        """The class of the SAE; import it here, not at the top of the plugin, so that listing plugins stays light."""
        raise NotImplementedError(f"{type(self).__name__} must say which SAE class it builds.")


class ActivationSourceConfig(ComponentConfig):
    """Settings of a stream of activations to train on."""

    role: ClassVar[str] = "activation source"
    kind: str

    def build(self, seed: int = 0) -> ActivationSource:
        """Open the source: models and data are found here, so what is missing is said here."""
        raise NotImplementedError


class LoggerConfig(ComponentConfig):
    """Settings of a destination for a run's metrics. Secrets come from the environment, never from here."""

    role: ClassVar[str] = "logger"
    kind: str

    def build(self) -> Logger:
        """Open the logger."""
        raise NotImplementedError


class Contents(NamedTuple):
    """An SAE as its files describe it."""

    cfg: SAEConfig
    tensors: dict[str, Tensor]  # under the names and shapes of our own files: W_enc is [d_in, d_sae]


class WeightFormat(ComponentConfig):
    """How a project publishes SAEs: which files each of them has, and how they are read."""

    role: ClassVar[str] = "weight format"
    kind: str

    def files(self, path: str) -> Mapping[str, bool]:
        """The files of the SAE at this path, from the root of the repository, and whether each must be there."""
        raise NotImplementedError

    def fits(self, path: str, present: Container[str]) -> bool:
        """Whether the files that it needs are among those present in a repository."""
        return all(name in present for name, required in self.files(path).items() if required)

    def read(self, root: Path, sae: ReleasedSAE) -> Contents:
        """Read an SAE whose files lie under `root` as in the repository. PlatformError for what cannot be kept."""
        raise NotImplementedError

    def write(self, sae: SAE, folder: Path) -> None:
        """Write an SAE in this format, files of the same names in a folder. PlatformError for what cannot be kept."""
        raise PlatformError(f"SAEs are read from the format {self.kind!r} and not written in it.")


class ExporterConfig(ComponentConfig):
    """Settings of a place to publish a finished SAE."""

    role: ClassVar[str] = "exporter"
    kind: str
