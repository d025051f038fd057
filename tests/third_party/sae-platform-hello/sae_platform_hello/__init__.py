"""Three parts for SAE Platform: the `batchtopk` architecture, the `csvlog` logger and the `npy` activation source."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt

from sae_platform import ActivationSourceConfig, LoggerConfig, SAEConfig, hookimpl

if TYPE_CHECKING:
    from sae_platform_hello.csvlog import CsvLog
    from sae_platform_hello.model import BatchTopKSAE
    from sae_platform_hello.npy import NpySource


class BatchTopKConfig(SAEConfig):
    architecture: Literal["batchtopk"] = "batchtopk"
    k: PositiveInt = Field(32, description="active features per input, on average over a batch")
    aux_loss_coefficient: NonNegativeFloat = Field(1 / 32, description="weight of the term that revives dead features")
    threshold_rate: float = Field(0.01, gt=0, le=1, description="how fast the running threshold follows the batches")
    decoder_init_norm: float | None = Field(1.0, gt=0, description="decoder rows are kept at norm 1")

    def module(self) -> type[BatchTopKSAE]:
        from sae_platform_hello.model import BatchTopKSAE

        return BatchTopKSAE


class CsvLogConfig(LoggerConfig):
    kind: Literal["csvlog"] = "csvlog"
    path: Path = Field(Path("metrics.csv"), description="file that gets one line per metric: step,name,value")

    def build(self) -> CsvLog:
        from sae_platform_hello.csvlog import CsvLog

        return CsvLog(self.path)


class NpyConfig(ActivationSourceConfig):
    kind: Literal["npy"] = "npy"
    path: Path = Field(description="a .npy file of activations [rows, d_in]")
    batch_rows: PositiveInt = 256
    held_out_rows: PositiveInt = Field(512, description="rows at the end of the file that training never sees")

    def build(self, seed: int = 0) -> NpySource:
        from sae_platform_hello.npy import NpySource

        return NpySource(self, seed)


@hookimpl
def register_architectures() -> list[type[SAEConfig]]:
    return [BatchTopKConfig]


@hookimpl
def register_loggers() -> list[type[LoggerConfig]]:
    return [CsvLogConfig]


@hookimpl
def register_activation_sources() -> list[type[ActivationSourceConfig]]:
    return [NpyConfig]
