"""Folders that cannot be loaded: every fault is named, and a run or checkpoint stands for the SAE in it."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sae_platform import SAE, PlatformError, weights
from saved import D_SAE, edit

Fault = Callable[[Path], object]


def _tensors(change: Callable[[dict[str, Tensor]], object]) -> Fault:
    def fault(folder: Path) -> None:
        tensors = load_file(folder / weights.WEIGHTS)
        change(tensors)
        save_file(tensors, folder / weights.WEIGHTS)

    return fault


def _cut(folder: Path) -> None:
    whole = (folder / weights.WEIGHTS).read_bytes()
    (folder / weights.WEIGHTS).write_bytes(whole[:-5])


def _write(name: str, content: bytes) -> Fault:
    return lambda folder: (folder / name).write_bytes(content)


FAULTS: dict[str, tuple[Fault, str]] = {
    "no weights": (lambda folder: (folder / weights.WEIGHTS).unlink(), r"an_sae has no sae_weights\.safetensors"),
    "no cfg.json": (lambda folder: (folder / weights.CONFIG).unlink(), r"an_sae is not an SAE folder.*cfg\.json"),
    "broken JSON": (_write("cfg.json", b'{"d_in": 4,'), r"an_sae/cfg\.json cannot be read"),
    "no UTF-8": (_write("cfg.json", b"\xff\xfe\x00"), r"an_sae/cfg\.json cannot be read"),
    "no object": (_write("cfg.json", b"[1, 2]"), r"an_sae/cfg\.json does not describe an SAE"),
    "empty object": (_write("cfg.json", b"{}"), r"an_sae/cfg\.json does not describe an SAE"),
    "unknown architecture": (
        lambda folder: edit(folder, architecture="standart"),
        r"cfg\.json(.|\n)*'standart'. Did you mean 'standard'",
    ),
    "unknown setting": (lambda folder: edit(folder, l2_coefficient=1), r"cfg\.json(.|\n)*l2_coefficient"),
    "impossible setting": (lambda folder: edit(folder, d_sae=-1), r"cfg\.json(.|\n)*d_sae"),
    "width missing": (lambda folder: edit(folder, d_in=None), r"d_in is not set"),
    "missing tensor": (_tensors(lambda t: t.pop("W_enc")), r"an_sae/sae_weights.*Missing: W_enc\. Not expected: none"),
    "extra tensor": (
        _tensors(lambda t: t.update(scaling_factor=torch.ones(D_SAE))),
        r"an_sae/sae_weights.*Missing: none\. Not expected: scaling_factor",
    ),
    "renamed tensor": (
        _tensors(lambda t: t.update(b_encoder=t.pop("b_enc"))),
        r"an_sae/sae_weights.*Missing: b_enc\. Not expected: b_encoder",
    ),
    "wrong shape": (
        _tensors(lambda t: t.update(W_enc=t["W_enc"].T.contiguous())),
        r"an_sae/sae_weights.*W_enc has shape \(6, 4\), expected \(4, 6\)",
    ),
    "wrong rank": (_tensors(lambda t: t.update(W_enc=torch.ones(24))), r"W_enc has shape \(24,\), expected \(4, 6\)"),
    "another size": (lambda folder: edit(folder, d_sae=7), r"has shape \(.*6.*\), expected \(.*7.*\)"),
    "NaN": (_tensors(lambda t: t["b_enc"].fill_(torch.nan)), r"an_sae/sae_weights.*b_enc holds NaN or infinity"),
    "infinity": (_tensors(lambda t: t["W_dec"][0].fill_(torch.inf)), r"W_dec holds NaN or infinity"),
    "cut file": (_cut, r"an_sae/sae_weights\.safetensors cannot be read"),
    "empty file": (_write(weights.WEIGHTS, b""), r"an_sae/sae_weights\.safetensors cannot be read"),
    "pickle": (_write(weights.WEIGHTS, pickle.dumps({"W_enc": [1.0]})), r"sae_weights\.safetensors cannot be read"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_folder_is_refused_with_its_fault(fault: str, sae_folder: Path) -> None:
    spoil, message = FAULTS[fault]
    spoil(sae_folder)
    with pytest.raises(PlatformError, match=message):
        SAE.load_from_disk(sae_folder)


def test_a_folder_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(PlatformError, match=r"nowhere.*The folder does not exist"):
        SAE.load_from_disk(tmp_path / "nowhere")


def test_a_folder_above_an_sae_points_down_to_it(sae_folder: Path) -> None:
    with pytest.raises(PlatformError, match=r"SAE folders inside it: .*an_sae\."):
        SAE.load_from_disk(sae_folder.parent)


def test_unpickling_code_is_never_run(sae_folder: Path, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "exploded",)

    (sae_folder / weights.WEIGHTS).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(PlatformError, match="cannot be read"):
        SAE.load_from_disk(sae_folder)
    assert not (tmp_path / "exploded").exists()


def _sae_at(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / weights.CONFIG).write_text("{}")
    return folder


def test_an_sae_folder_means_itself(sae_folder: Path) -> None:
    assert weights.find_sae_folder(sae_folder) == sae_folder


def test_a_checkpoint_means_its_sae(tmp_path: Path) -> None:
    saved = _sae_at(tmp_path / "sae")
    assert weights.find_sae_folder(tmp_path) == saved


def test_a_run_means_its_finished_sae_or_else_its_newest_checkpoint(tmp_path: Path) -> None:
    _sae_at(tmp_path / "checkpoints/step-00000900/sae")
    newest = _sae_at(tmp_path / "checkpoints/step-00001000/sae")
    (tmp_path / "checkpoints/step-00002000").mkdir()  # nothing was saved there
    assert weights.find_sae_folder(tmp_path) == newest
    finished = _sae_at(tmp_path / "sae")
    assert weights.find_sae_folder(tmp_path) == finished


def test_any_other_folder_is_refused(sae_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(PlatformError, match="no run, checkpoint or SAE folder.*an_sae"):
        weights.find_sae_folder(tmp_path)
    with pytest.raises(PlatformError, match="does not exist"):
        weights.find_sae_folder(tmp_path / "nowhere")
