from __future__ import annotations

import json
import subprocess
import sys

import pytest

from saved import trained

HEAVY = ["torch", "transformers", "datasets", "wandb", "huggingface_hub", "numpy", "pandas"]
CHEAP_MODULES = [
    "sae_platform",
    "sae_platform.errors",
    "sae_platform.components",
    "sae_platform.hookspecs",
    "sae_platform.plugins",
    "sae_platform.config",
    "sae_platform.runs",
    "sae_platform.loggers",
]
BUILT_IN_PLUGINS = [
    "sae_platform_standard",
    "sae_platform_gated",
    "sae_platform_topk",
    "sae_platform_jumprelu",
    "sae_platform_transcoders",
    "sae_platform_matching_pursuit",
    "sae_platform_temporal",
    "sae_platform_transformers",
    "sae_platform_synthetic",
    "sae_platform_formats",
    "sae_platform_wandb",
]


def loaded_after(statement: str) -> set[str]:
    """The top-level modules of a fresh interpreter after a statement."""
    program = (
        f"import json, sys\ntry:\n    {statement}\nexcept SystemExit as done:\n    assert not done.code, done.code\n"
    )
    report = "sys.stderr.write(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", program + report], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stderr))


def command(*arguments: str) -> str:
    return f"from sae_platform.cli import main; main({list(arguments)!r})"


@pytest.mark.parametrize("module", CHEAP_MODULES)
def test_a_cheap_kernel_module_loads_nothing_heavy(module):
    assert loaded_after(f"import {module}").isdisjoint(HEAVY)


def test_built_in_plugins_load_nothing_heavy():
    assert loaded_after(f"import {', '.join(BUILT_IN_PLUGINS)}").isdisjoint(HEAVY)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]], ids=" ".join)
def test_help_loads_nothing_but_click(arguments):
    assert loaded_after(command(*arguments)).isdisjoint([*HEAVY, "pydantic", "pluggy", "rich"])


@pytest.mark.parametrize(
    "arguments",
    [
        ["plugins", "list"],
        ["plugins", "check"],
        ["runs", "list"],
        ["train", "--help"],
        ["evaluate", "--help"],
        ["config", "--help"],
        ["runs", "--help"],
    ],
    ids=" ".join,
)
def test_a_cheap_command_loads_nothing_heavy(arguments):
    assert loaded_after(command(*arguments)).isdisjoint(HEAVY)


def test_listing_plugins_imports_none():
    assert loaded_after(command("plugins", "list")).isdisjoint(BUILT_IN_PLUGINS)


def test_an_sae_on_disk_needs_no_more_than_torch(tmp_path):
    trained("topk").save_model(tmp_path)
    absent = ["transformer_lens", "wandb", "textual", "datasets", "transformers"]
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({absent}))\n"
        f"from sae_platform import SAE; import torch\n"
        f"sae = SAE.load_from_disk({str(tmp_path)!r}); print(sae(torch.zeros(2, sae.d_in)).shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "torch.Size([2, 4])", done.stderr
