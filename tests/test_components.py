from __future__ import annotations

import copy
import pickle

import pytest
from pydantic import BaseModel, SerializeAsAny, ValidationError

from sae_platform import LoggerConfig, PlatformError, SAEConfig

TOYS = """
    from typing import Literal
    from sae_platform import LoggerConfig, SAEConfig, hookimpl
    class ToyConfig(SAEConfig):
        architecture: Literal["toy"] = "toy"
        k: int = 4
    class LampConfig(LoggerConfig):
        kind: Literal["lamp"] = "lamp"
    @hookimpl
    def register_architectures():
        return [ToyConfig]
    @hookimpl
    def register_loggers():
        return [LampConfig]
"""

TABLE = {"architecture": "toy", "d_in": 8, "d_sae": 32, "k": 2, "metadata": {"hook_name": "blocks.0", "origin": "here"}}


class Run(BaseModel):
    sae: SerializeAsAny[SAEConfig]
    loggers: list[SerializeAsAny[LoggerConfig]] = []


@pytest.fixture(autouse=True)
def toys(install):
    install("toys", TOYS)


@pytest.fixture
def toy() -> SAEConfig:
    return SAEConfig(**TABLE)


def test_the_constructor_gives_the_class_of_the_architecture(toy):
    assert (type(toy).__name__, type(toy).__module__) == ("ToyConfig", "sae_platform_toys")
    assert toy.k == 2


@pytest.mark.parametrize(
    "made",
    [
        lambda toy: SAEConfig.model_validate(TABLE),
        lambda toy: SAEConfig.model_validate_json(toy.model_dump_json()),
        lambda toy: Run.model_validate({"sae": TABLE}).sae,
        lambda toy: Run(sae=TABLE).sae,
        lambda toy: Run(sae=toy).sae,
        lambda toy: Run.model_validate_json(Run(sae=toy).model_dump_json()).sae,
        lambda toy: type(toy).model_validate(TABLE),
        lambda toy: pickle.loads(pickle.dumps(toy)),  # noqa: S301
        copy.copy,
        copy.deepcopy,
        lambda toy: toy.model_copy(),
    ],
    ids=[
        "model_validate",
        "model_validate_json",
        "nested",
        "nested constructor",
        "nested instance",
        "nested json",
        "own class",
        "pickle",
        "copy",
        "deepcopy",
        "model_copy",
    ],
)
def test_every_way_to_a_config_gives_the_same_config(toy, made):
    again = made(toy)
    assert type(again) is type(toy)
    assert again == toy
    assert again.model_dump() == toy.model_dump()


def test_a_list_of_parts_is_dispatched_one_by_one():
    (logger,) = Run.model_validate({"sae": TABLE, "loggers": [{"kind": "lamp"}]}).loggers
    assert type(logger).__name__ == "LampConfig"


def test_configs_differ_when_a_field_differs(toy):
    assert toy != SAEConfig(**{**TABLE, "k": 3})


def test_a_config_is_frozen(toy):
    with pytest.raises(ValidationError, match="frozen"):
        toy.k = 3


def test_an_unknown_architecture_is_answered_with_the_nearest_name():
    with pytest.raises(PlatformError, match=r"No architecture is called 'toi'\. Did you mean 'toy'\? Installed: .*toy"):
        SAEConfig(architecture="toi", d_sae=32)
    with pytest.raises(ValidationError, match=r"(?s)sae.*No architecture is called 'toi'"):
        Run.model_validate({"sae": {"architecture": "toi", "d_sae": 32}})


def test_a_missing_architecture_is_answered_with_what_is_installed():
    with pytest.raises(PlatformError, match=r"architecture is missing\. Installed: .*toy"):
        SAEConfig(d_sae=32)
    with pytest.raises(ValidationError, match=r"architecture is missing\. Installed: .*toy"):
        Run.model_validate({"sae": {"d_sae": 32}})
    with pytest.raises(ValidationError, match=r"kind is missing\. Installed: .*lamp"):
        Run.model_validate({"sae": TABLE, "loggers": [{}]})


def test_something_that_is_no_table_is_refused():
    with pytest.raises(ValidationError, match="needs a table that names its architecture"):
        Run.model_validate({"sae": "toy"})


def test_an_unknown_key_is_refused_with_its_place():
    with pytest.raises(ValidationError, match=r"(?s)sae\.kk.*Not a setting of ToyConfig. Did you mean 'k'"):
        Run.model_validate({"sae": {**TABLE, "kk": 1}})


def test_another_architectures_name_does_not_fit_a_class(toy):
    with pytest.raises(ValidationError, match="Input should be 'toy'"):
        type(toy)(architecture="other", d_sae=32)


def test_what_the_metadata_holds_reads_through(toy):
    assert toy.hook_name == toy.metadata.hook_name == "blocks.0"
    assert toy.model_name is None
    assert toy.metadata.origin == "here"
    with pytest.raises(AttributeError, match="nonsense"):
        toy.nonsense  # noqa: B018


def test_the_width_is_asked_for_when_it_is_not_known(toy):
    assert toy.width == 8
    with pytest.raises(PlatformError, match="d_in is not set"):
        _ = SAEConfig(**{**TABLE, "d_in": None}).width


def test_a_config_without_a_module_says_so(toy):
    with pytest.raises(NotImplementedError, match="ToyConfig must say which SAE class it builds"):
        toy.module()
