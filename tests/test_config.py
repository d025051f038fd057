"""A run file: every table is optional, every mistake is named with its place and what would be right."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from sae_platform import PlatformError, RunConfig, SAEConfig, read_run
from sae_platform.components import ActivationSourceConfig
from sae_platform.config import json_schema
from sae_platform.plugins import installed_plugins

LOGGER = """
    from typing import Literal
    from sae_platform import LoggerConfig, hookimpl

    class DiaryConfig(LoggerConfig):
        kind: Literal["diary"] = "diary"
        pages: int = 3

    @hookimpl
    def register_loggers():
        return [DiaryConfig]
"""


def problems(*settings: str, file: Path | None = None) -> list[str]:
    """The lines of the error that these settings give."""
    with pytest.raises(PlatformError) as error:
        read_run(file, settings)
    return str(error.value).splitlines()


def problem(*settings: str) -> str:
    (line,) = problems(*settings)
    return line


def dumped(run: RunConfig, table: str) -> dict[str, Any]:
    return getattr(run, table).model_dump()


def test_no_file_is_a_topk_sae_on_the_embedded_model() -> None:
    run = read_run()
    assert run == RunConfig()
    assert (run.sae.architecture, run.sae.d_sae) == ("topk", 3072)
    assert run.sae.normalize_activations == "expected_average_only_in"
    source = dumped(run, "source")
    assert (source["kind"], source["model"], source["dataset"]) == ("transformers", "tinypy", "stdlib")
    assert (source["hook_name"], source["context_size"]) == ("blocks.1.hook_resid_post", 128)
    assert run.training.tokens == 1_000_000
    assert run.loggers == ()


def test_a_file_changes_what_it_names_and_a_setting_changes_the_file(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('[sae]\nk = 16\n[training]\ntokens = 5000\nseed = 3\n[source]\nhook_name = "layers.0"\n')
    run = read_run(file, ["training.tokens=6_000", "evaluation.tokens=10"])
    assert dumped(run, "sae")["k"] == 16
    assert (run.training.tokens, run.training.seed, run.evaluation.tokens) == (6000, 3, 10)
    assert dumped(run, "source")["hook_name"] == "layers.0"
    assert run.sae.d_sae == 3072


@pytest.mark.parametrize("architecture", ["standard", "gated", "topk", "jumprelu"])
def test_another_architecture_drops_the_settings_of_the_old_one(architecture: str) -> None:
    run = read_run(None, [f"sae.architecture={architecture}"])
    assert run.sae.architecture == architecture
    assert ("k" in dumped(run, "sae")) == (architecture == "topk")
    assert run.sae.d_sae == 3072


def test_another_source_drops_the_settings_of_the_old_one() -> None:
    run = read_run(None, ["source.kind=synthetic"])
    assert not {"model", "dataset", "hook_name"} & dumped(run, "source").keys()
    assert dumped(run, "source")["n_features"] == 64


def test_settings_of_the_old_kind_are_refused_under_the_new_one() -> None:
    assert problem("sae.architecture=gated", "sae.k=3").startswith("sae.k is not a setting of architecture 'gated'.")


@pytest.mark.parametrize(
    ("setting", "table", "key", "value"),
    [
        ("training.tokens=2_000_000", "training", "tokens", 2_000_000),
        ("training.lr=1e-4", "training", "lr", 1e-4),
        ("training.buffer=2GB", "training", "buffer", "2GB"),
        ("training.device=cuda:1", "training", "device", "cuda:1"),
        ('training.device="cpu"', "training", "device", "cpu"),
        ("training.adam_betas=[0.5, 0.6]", "training", "adam_betas", (0.5, 0.6)),
        (" training.seed = 7 ", "training", "seed", 7),
        ("source.model=./some folder/model", "source", "model", "./some folder/model"),
        ("source.dataset=a=b.txt", "source", "dataset", "a=b.txt"),
        ("source.streaming=false", "source", "streaming", False),
    ],
)
def test_settings_are_toml_values_or_bare_words(setting: str, table: str, key: str, value: object) -> None:
    assert dumped(read_run(None, [setting]), table)[key] == value


def test_settings_reach_nested_tables_and_whole_ones() -> None:
    run = read_run(None, ["source.token_policy.separator=bos", 'sae={architecture="gated", d_sae=64}'])
    assert dumped(run, "source")["token_policy"]["separator"] == "bos"
    assert (run.sae.architecture, run.sae.d_sae) == ("gated", 64)


@pytest.mark.parametrize("setting", ["training", "=3", ".tokens=3", "training.=3", ""])
def test_a_setting_that_is_none_is_answered_with_an_example(setting: str) -> None:
    assert problem(setting) == (f"--set {setting!r} is not table.key=value, for example training.tokens=2_000_000.")


def test_a_setting_below_a_value_is_refused() -> None:
    assert problem("training.tokens=3", "training.tokens.x=1") == "--set 'training.tokens.x=1': tokens is not a table."


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("sae.kk=3", "sae.kk is not a setting of architecture 'topk'. Did you mean 'k'? Settings: apply_b_dec"),
        ("source.modl=x", "source.modl is not a setting of activation source 'transformers'. Did you mean 'model'?"),
        ("source.token_policy.seperator=eos", "source.token_policy.seperator is not a setting of source.token_policy."
         " Did you mean 'separator'? Settings: context_size, exclude_special_tokens, prepend_bos, separator."),
        ("training.token=3", "training.token is not a setting of [training]. Did you mean 'tokens'? Settings: adam_"),
        ("evaluation.token=3", "evaluation.token is not a setting of [evaluation]. Did you mean 'tokens'?"
         " Settings: every, preservation_tokens, tokens"),
        ("trainin.tokens=3", "trainin is not a setting. Did you mean 'training'?"
         " Settings: evaluation, loggers, sae, source, training."),
    ],
)  # fmt: skip
def test_an_unknown_setting_is_answered_with_the_nearest_and_all_others(setting: str, expected: str) -> None:
    assert problem(setting).startswith(expected)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("sae.architecture=topkk", "sae: No architecture is called 'topkk'. Did you mean 'topk'? Installed: abstopk, "),
        ("source.kind=synthetics", "source: No activation source is called 'synthetics'. Did you mean 'synthetic'?"),
        ('loggers=[{kind="wandbb"}]', "loggers.0: No logger is called 'wandbb'."),
        ("loggers=[{}]", "loggers.0: kind is missing."),
    ],
)
def test_an_unknown_kind_is_answered_with_the_installed_ones(setting: str, expected: str) -> None:
    assert problem(setting).startswith(expected)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("training.tokens=0", "training.tokens: input should be greater than 0, not 0."),
        ("training.tokens=many", "training.tokens: input should be a valid integer, "),
        ("training.lr=-1", "training.lr: input should be greater than 0, not -1."),
        ("training.seed=-1", "training.seed: input should be greater than or equal to 0, not -1."),
        ("training.seed=99999999999999999999", "training.seed: input should be less than 9223372036854775808, "),
        ("training.lr_schedule=cosin", "training.lr_schedule: input should be 'constant' or 'cosine', not 'cosin'."),
        ("training.dtype=float31", "training.dtype: input should be 'float32', 'float64' or 'bfloat16',"),
        ("training.precision=fp8", "training.precision: input should be 'full', 'tf32' or 'bfloat16', not 'fp8'."),
        ("training.precision=tf32", "training: precision is \"tf32\", which only CUDA has, and the device is 'cpu'"),
        ("training.adam_betas=[0.9, 1.0]", "training.adam_betas.1: input should be less than 1, not 1.0."),
        ("training.adam_betas=[0.9]", "training.adam_betas.1 is missing."),
        ("training.buffer=-3", 'training.buffer: needs a number of tokens (131072) or memory ("2GB"), not -3'),
        ("training.buffer=[1]", 'training.buffer: needs a number of tokens (131072) or memory ("2GB"), not [1]'),
        ("training=5", "training: input should be a valid dictionary"),
        ("sae=5", "sae: needs a table that names its architecture"),
        ("loggers=5", "loggers: input should be a valid tuple, not 5."),
        ("sae.k=5000", "sae: k = 5000 is more than d_sae = 3072; choose k from 1 to 3072"),
    ],
)
def test_a_wrong_value_is_named_with_its_place_and_what_would_be_right(setting: str, expected: str) -> None:
    assert problem(setting).startswith(expected)


def test_every_problem_is_listed_with_the_file_it_is_in(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('[sae]\nkk = 3\n[training]\nlr = -1\ntoken = 5\n[source]\nkind = "synthetc"\n[extra]\nx = 1\n')
    found = problems(file=file)
    assert {line.split()[1] for line in found} == {"sae.kk", "training.lr:", "training.token", "source:", "extra"}
    assert all(line.startswith(f"{file}: ") for line in found)


def test_a_file_that_is_not_there_or_no_toml_is_named(tmp_path: Path) -> None:
    missing, broken = tmp_path / "missing.toml", tmp_path / "broken.toml"
    broken.write_text("[sae\n")
    assert problems(file=missing) == [f"The run file {missing} cannot be read: No such file or directory."]
    assert problems(file=tmp_path) == [f"The run file {tmp_path} cannot be read: Is a directory."]
    (line,) = problems(file=broken)
    assert line.startswith(f"{broken} is not valid TOML: ")
    assert "line 1" in line


@pytest.mark.parametrize(("key", "other"), [("device", "cuda"), ("dtype", "float64")])
def test_device_and_dtype_are_given_in_one_place(key: str, other: str) -> None:
    expected = f"sae.{key} and training.{key} disagree; set training.{key} alone"
    assert problem(f"sae.{key}={other}") == expected
    agreeing = read_run(None, [f"sae.{key}={other}", f"training.{key}={other}"])
    assert getattr(agreeing.training, key) == other


@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["sae.architecture=standard", "sae.l1_coefficient=5", "sae.use_ghost_grads=true"],
        ["sae.architecture=gated", "sae.normalize_activations=layer_norm"],
        ["sae.architecture=topk", "sae.k=7", "sae.d_sae=64", "sae.d_in=12"],
        ["sae.architecture=jumprelu", "sae.sparsity_loss=quadratic", "sae.target_l0=20"],
        ["source.kind=synthetic", "source.noise=0.5"],
        ["source.token_policy.prepend_bos=false", "source.context_size=64", 'source.model="a \\"b\\" \\\\ c"'],
        ["training.clip_grad_norm=0", "training.lr_decay_steps=0", "training.buffer=1GB", "training.device=cuda"],
        ["training.dtype=bfloat16", "training.adam_betas=[0.5, 0.9]", "evaluation.preservation_tokens=0"],
    ],
)
def test_the_resolved_file_gives_the_same_run_again(settings: list[str], tmp_path: Path) -> None:
    run = read_run(None, settings)
    file = tmp_path / "resolved.toml"
    file.write_text(run.to_toml())
    assert read_run(file) == run


def test_the_resolved_file_leaves_out_what_the_run_fills_in() -> None:
    sae = tomllib.loads(read_run(None, ["training.device=cuda"]).to_toml())["sae"]
    assert not {"device", "dtype", "metadata"} & sae.keys()


def test_loggers_are_tables_in_a_row(install, tmp_path: Path) -> None:
    install("diary", LOGGER)
    file = tmp_path / "run.toml"
    file.write_text('[[loggers]]\nkind = "diary"\n[[loggers]]\nkind = "diary"\npages = 9\n')
    run = read_run(file)
    assert [logger.model_dump() for logger in run.loggers] == [
        {"kind": "diary", "pages": 3},
        {"kind": "diary", "pages": 9},
    ]
    assert tomllib.loads(run.to_toml())["loggers"][1] == {"kind": "diary", "pages": 9}
    assert problem('loggers=[{kind="diary", page=1}]').startswith(
        "loggers.0.page is not a setting of logger 'diary'. Did you mean 'pages'? Settings: kind, pages."
    )


def test_python_takes_tables_configs_or_both() -> None:
    sae = SAEConfig(architecture="gated", d_sae=8)
    run = RunConfig(sae=sae, source={"kind": "synthetic"}, training={"tokens": 10, "batch_size": 4})
    assert run.sae is sae
    assert isinstance(run.source, ActivationSourceConfig)
    assert run.training.steps == 3
    with pytest.raises(ValidationError, match="Did you mean 'topk'"):
        RunConfig(sae={"architecture": "topkk"})


def schema_accepts(value: Any, schema: Any, root: dict[str, Any]) -> bool:
    """As much of JSON schema as run files need."""
    if "$ref" in schema:
        return schema_accepts(value, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root)
    if "anyOf" in schema and not any(schema_accepts(value, option, root) for option in schema["anyOf"]):
        return False
    if "not" in schema and schema_accepts(value, schema["not"], root):
        return False
    types = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool}
    if "type" in schema and not (schema["type"] != "null" and isinstance(value, types[schema["type"]])):
        return False
    if value not in schema.get("enum", [value]) or value != schema.get("const", value):
        return False
    if isinstance(value, int | float) and not (
        schema.get("minimum", value) <= value <= schema.get("maximum", value)
        and value > schema.get("exclusiveMinimum", value - 1)
        and value < schema.get("exclusiveMaximum", value + 1)
    ):
        return False
    if isinstance(value, list) and "items" in schema:
        return all(schema_accepts(item, schema["items"], root) for item in value)
    if not isinstance(value, dict):
        return True
    known = schema.get("properties", {})
    return (
        set(schema.get("required", ())) <= value.keys()
        and (schema.get("additionalProperties", True) or value.keys() <= known.keys())
        and all(schema_accepts(item, known[key], root) for key, item in value.items() if key in known)
    )


@pytest.mark.parametrize(
    ("run_file", "accepted"),
    [
        ("", True),
        ("[sae]\nk = 16\n", True),
        ('[sae]\narchitecture = "standard"\n', True),
        ("[sae]\nd_sae = 64\n", True),
        ('[training]\nclip_grad_norm = 0\nbuffer = "1GB"\nadam_betas = [0.5, 0.5]\n', True),
        ('[source]\nkind = "synthetic"\nl0 = 2.5\n', True),
        ("loggers = []\n", True),
        ("[sae]\nkk = 16\n", False),
        ('[sae]\narchitecture = "topkk"\n', False),
        ("[training]\ntokens = 0\n", False),
        ("[trainin]\ntokens = 5\n", False),
        ('[[loggers]]\nkind = "none"\n', False),
    ],
)
def test_the_schema_accepts_what_a_run_accepts(run_file: str, accepted: bool, tmp_path: Path) -> None:
    schema = json_schema(installed_plugins())
    assert schema_accepts(tomllib.loads(run_file), schema, schema) == accepted
    file = tmp_path / "run.toml"
    file.write_text(run_file)
    if accepted:
        resolved = read_run(file).to_toml()
        assert schema_accepts(tomllib.loads(resolved), schema, schema)
    else:
        assert problems(file=file)


def test_the_schema_knows_every_installed_kind(install) -> None:
    install("diary", LOGGER)
    schema = json_schema(installed_plugins())

    def kinds(table: dict[str, Any], selector: str) -> set[str]:
        options = [schema["$defs"][option["$ref"].removeprefix("#/$defs/")] for option in table["anyOf"]]
        assert all(option["additionalProperties"] is False for option in options)
        return {option["properties"][selector]["const"] for option in options}

    tables = schema["properties"]
    assert kinds(tables["sae"], "architecture") == {"standard", "gated", "topk", "abstopk", "jumprelu"}
    assert kinds(tables["source"], "kind") == {"transformers", "transformer_lens", "synthetic"}
    assert kinds(tables["loggers"]["items"], "kind") == {"diary", "wandb"}
    assert all("description" in field for name, field in schema["$defs"]["TrainingConfig"]["properties"].items()
               if not name.startswith("adam_"))  # fmt: skip
