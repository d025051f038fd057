"""`sae-platform convert`: what is written is what was read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from sae_platform import SAE, SAEConfig
from sae_platform.cli import main
from saved import trained

X = torch.randn(9, 4, generator=torch.Generator().manual_seed(3))


def convert(source: Path, destination: Path, form: str) -> Result:
    return CliRunner().invoke(main, ["convert", str(source), str(destination), "--to", form])


@pytest.mark.parametrize("subtracts", [True, False])
@pytest.mark.parametrize(
    ("form", "architecture"),
    [
        *(("dictionary_learning", name) for name in ("standard", "gated", "topk", "jumprelu")),
        *(("saelens", name) for name in ("standard", "gated", "topk", "jumprelu", "abstopk")),
        ("sparsify", "topk"),
    ],
)
def test_a_round_trip_keeps_every_output(form: str, architecture: str, subtracts: bool, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"k": 2} if "topk" in architecture else {}
    sae = trained(architecture, apply_b_dec_to_input=subtracts, **settings)
    sae.save_model(tmp_path / "mine")
    there = convert(tmp_path / "mine", tmp_path / "theirs", form)
    assert there.exit_code == 0, there.output
    assert "its outputs differ by" in there.output
    back = convert(tmp_path / "theirs", tmp_path / "back", "saelens")
    assert back.exit_code == 0, back.output
    again = SAE.load_from_disk(tmp_path / "back")
    torch.testing.assert_close(again.encode(X), sae.encode(X), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(again(X), sae(X), rtol=1e-5, atol=1e-6)
    assert again.cfg.architecture == architecture


@pytest.mark.parametrize("architecture", ["topk_transcoder", "topk_skip_transcoder"])
def test_transcoders_go_to_sparsify(architecture: str, tmp_path: Path) -> None:
    sae = SAEConfig(architecture=architecture, d_in=4, d_out=4, d_sae=6, k=2).build()
    sae.save_model(tmp_path / "mine")
    assert convert(tmp_path / "mine", tmp_path / "theirs", "sparsify").exit_code == 0
    torch.testing.assert_close(SAE.load_from_disk(tmp_path / "theirs")(X), sae(X))


@pytest.mark.parametrize(
    ("architecture", "settings", "form", "message"),
    [
        ("gated", {}, "sparsify", "sparsify knows no gated SAE. It knows topk"),
        ("matching_pursuit", {}, "dictionary_learning", "knows no matching_pursuit SAE"),
        ("standard", {"normalize_activations": "layer_norm"}, "dictionary_learning", "no place for an input normalis"),
        ("topk_transcoder", {"d_out": 3, "k": 2}, "sparsify", "has one width"),
        ("standard", {}, "gemma_scope", "read from the format 'gemma_scope' and not written in it"),
        ("standard", {}, "dictionary_lerning", "Did you mean 'dictionary_learning'"),
    ],
)
def test_what_a_format_cannot_keep_is_refused(
    architecture: str, settings: dict[str, Any], form: str, message: str, tmp_path: Path
) -> None:
    SAEConfig(architecture=architecture, d_in=4, d_sae=6, **settings).build().save_model(tmp_path / "mine")
    result = convert(tmp_path / "mine", tmp_path / "theirs", form)
    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "theirs").exists()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    trained().save_model(tmp_path / "mine")
    result = convert(tmp_path / "mine", tmp_path / "mine", "saelens")
    assert result.exit_code == 2
    assert "is there already" in result.output
