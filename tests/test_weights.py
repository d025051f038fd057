"""The SAE folder: what is on disk, that it comes back, and that every fault in it is named."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from sae_platform import SAE, PlatformError, SAEConfig, weights
from sae_platform.components import SAEMetadata, TokenPolicy
from sae_platform.testing import train_steps

torch.set_num_threads(1)

D_IN, D_SAE = 4, 6
EXTRA: dict[str, dict[str, Any]] = {"topk": {"k": 2}}
ARCHITECTURES = ("standard", "gated", "topk", "jumprelu")
SHAPES = {
    "W_enc": (D_IN, D_SAE),
    "W_dec": (D_SAE, D_IN),
    "b_enc": (D_SAE,),
    "b_dec": (D_IN,),
    "b_gate": (D_SAE,),
    "b_mag": (D_SAE,),
    "r_mag": (D_SAE,),
    "threshold": (D_SAE,),
}
TENSORS = {
    "standard": {"W_enc", "W_dec", "b_enc", "b_dec"},
    "topk": {"W_enc", "W_dec", "b_enc", "b_dec"},
    "jumprelu": {"W_enc", "W_dec", "b_enc", "b_dec", "threshold"},
    "gated": {"W_enc", "W_dec", "b_dec", "b_gate", "b_mag", "r_mag"},
}
METADATA = SAEMetadata(
    model_name="gpt2",
    hook_name="blocks.7.hook_resid_pre",
    dataset_path="some/text",
    context_size=128,
    token_policy=TokenPolicy(prepend_bos=False, exclude_special_tokens=True),
)


def trained(architecture: str = "standard", **settings: Any) -> SAE:
    """A small SAE after a few steps, so that no tensor is at its start."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        settings = {**EXTRA.get(architecture, {}), "metadata": METADATA, **settings}
        sae = SAEConfig(architecture=architecture, d_in=D_IN, d_sae=D_SAE, **settings).build()
        train_steps(sae, torch.randn(16, D_IN), 3)
    return sae.eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A saved standard SAE."""
    trained().save_model(tmp_path / "an_sae")
    return tmp_path / "an_sae"


def edit(folder: Path, **changes: Any) -> None:
    """Change keys of our own configuration in cfg.json."""
    content = json.loads((folder / weights.CONFIG).read_text())
    content["sae_platform"].update(changes)
    (folder / weights.CONFIG).write_text(json.dumps(content))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_saved_sae_comes_back_bit_for_bit(architecture: str, dtype: str, tmp_path: Path) -> None:
    saved = trained(architecture, dtype=dtype)
    saved.save_model(tmp_path)
    loaded = SAE.load_from_disk(tmp_path)
    assert type(loaded) is type(saved)
    assert loaded.cfg == saved.cfg
    assert loaded.cfg.dtype == dtype
    assert not loaded.training
    assert loaded.state_dict().keys() == saved.state_dict().keys()
    for name, tensor in saved.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    x = torch.randn(8, D_IN)
    assert torch.equal(loaded(x), saved(x))


def test_a_loaded_sae_can_be_trained_further(folder: Path) -> None:
    sae = SAE.load_from_disk(folder)
    before = [p.detach().clone() for p in sae.parameters()]
    train_steps(sae, torch.randn(16, D_IN), 2)
    assert all(p.is_contiguous() and p.requires_grad for p in sae.parameters())
    assert not any(torch.equal(p, old) for p, old in zip(sae.parameters(), before, strict=True))


def test_the_training_form_keeps_its_input_scale(tmp_path: Path) -> None:
    sae = trained(normalize_activations="expected_average_only_in")
    sae.initialise(3 * torch.randn(16, D_IN))
    sae.save_model(tmp_path)
    assert load_file(tmp_path / weights.WEIGHTS)["input_scale"].shape == ()
    x = torch.randn(8, D_IN)
    assert torch.equal(SAE.load_from_disk(tmp_path)(x), sae(x))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_file_holds_the_tensors_that_saelens_reads_and_no_others(
    architecture: str, dtype: str, tmp_path: Path
) -> None:
    sae = trained(architecture, dtype=dtype)
    sae.save_model(tmp_path)
    tensors = load_file(tmp_path / weights.WEIGHTS)
    assert tensors.keys() == TENSORS[architecture]
    for name, tensor in tensors.items():
        assert tensor.shape == SHAPES[name], name
        assert tensor.dtype == getattr(torch, dtype), name
        assert torch.equal(tensor, getattr(sae, name)), name
    with safe_open(tmp_path / weights.WEIGHTS, framework="pt") as file:
        assert not file.metadata()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_cfg_json_holds_what_saelens_6_needs(architecture: str, tmp_path: Path) -> None:
    trained(architecture, dtype="bfloat16").save_model(tmp_path)
    cfg = json.loads((tmp_path / weights.CONFIG).read_text())
    assert {
        "architecture": architecture,
        "d_in": D_IN,
        "d_sae": D_SAE,
        "dtype": "bfloat16",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
    }.items() <= cfg.items()
    assert {
        "model_name": "gpt2",
        "hook_name": "blocks.7.hook_resid_pre",
        "hook_head_index": None,
        "dataset_path": "some/text",
        "context_size": 128,
        "prepend_bos": False,
        "exclude_special_tokens": True,
        "seqpos_slice": [None],
    }.items() <= cfg["metadata"].items()
    assert int(cfg["metadata"]["sae_lens_version"].split(".")[0]) >= 6
    assert int(cfg["sae_lens_version"].split(".")[0]) >= 6
    if architecture == "topk":
        assert cfg["k"] == 2
        assert cfg["rescale_acts_by_decoder_norm"] is True


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_cfg_json_holds_what_saelens_3_to_5_need(architecture: str, tmp_path: Path) -> None:
    trained(architecture).save_model(tmp_path)
    cfg = json.loads((tmp_path / weights.CONFIG).read_text())
    assert {
        "architecture": architecture,
        "d_in": D_IN,
        "d_sae": D_SAE,
        "activation_fn_str": "topk" if architecture == "topk" else "relu",
        "activation_fn_kwargs": {"k": 2} if architecture == "topk" else {},
        "apply_b_dec_to_input": True,
        "finetuning_scaling_factor": False,
        "context_size": 128,
        "model_name": "gpt2",
        "hook_name": "blocks.7.hook_resid_pre",
        "hook_layer": 7,
        "hook_head_index": None,
        "prepend_bos": False,
        "dataset_path": "some/text",
        "dataset_trust_remote_code": False,
        "normalize_activations": "none",
        "dtype": "float32",
        "device": "cpu",
    }.items() <= cfg.items()
    assert cfg["sae_lens_training_version"]


def saelens_folder(folder: Path, architecture: str = "standard", **settings: Any) -> dict[str, Tensor]:
    """A folder as SAELens 6 writes it; gives its tensors."""
    folder.mkdir(parents=True, exist_ok=True)
    cfg = {
        "d_in": D_IN,
        "d_sae": D_SAE,
        "dtype": "torch.float32",
        "device": "cuda",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "a_key_of_the_future": 1,
        "metadata": {
            "sae_lens_version": "6.54.12",
            "hook_name": "blocks.8.hook_resid_pre",
            "model_name": "gpt2-small",
            "seqpos_slice": [None],
            "l0": 52.1,
        },
        "architecture": architecture,
        **settings,
    }
    (folder / "cfg.json").write_text(json.dumps(cfg))
    generator = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(SHAPES[name], generator=generator) for name in sorted(TENSORS[architecture])}
    save_file(tensors, folder / "sae_weights.safetensors")
    return tensors


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_folder_written_by_saelens_6_loads(architecture: str, tmp_path: Path) -> None:
    extra = {"topk": {"k": 2, "rescale_acts_by_decoder_norm": True}}.get(architecture, {})
    tensors = saelens_folder(tmp_path, architecture, **extra)
    sae = SAE.load_from_disk(tmp_path)
    assert sae.cfg.architecture == architecture
    assert sae.cfg.dtype == "float32"
    assert sae.cfg.device == "cpu"
    assert sae.cfg.hook_name == "blocks.8.hook_resid_pre"
    assert sae.cfg.model_name == "gpt2-small"
    assert sae.cfg.metadata.model_extra == {"sae_lens_version": "6.54.12", "seqpos_slice": [None], "l0": 52.1}
    for name, tensor in tensors.items():
        assert torch.equal(getattr(sae, name), tensor), name


def test_a_saelens_folder_reconstructs_by_the_formula(tmp_path: Path) -> None:
    t = saelens_folder(tmp_path)
    x = torch.randn(8, D_IN)
    expected = ((x - t["b_dec"]) @ t["W_enc"] + t["b_enc"]).relu() @ t["W_dec"] + t["b_dec"]
    torch.testing.assert_close(SAE.load_from_disk(tmp_path)(x), expected)


def test_a_folder_from_before_saelens_6_is_refused_rather_than_misread(tmp_path: Path) -> None:
    saelens_folder(tmp_path, activation_fn_str="tanh-relu")
    content = json.loads((tmp_path / "cfg.json").read_text())
    del content["metadata"]
    (tmp_path / "cfg.json").write_text(json.dumps(content))
    with pytest.raises(PlatformError, match=r"cfg\.json.*before 6"):
        SAE.load_from_disk(tmp_path)


def test_firing_frequencies_are_saved_beside_the_weights(tmp_path: Path) -> None:
    sparsity = torch.linspace(-10, 0, D_SAE, dtype=torch.float64)
    paths = trained().save_model(tmp_path, sparsity)
    assert {path.name for path in paths} == {"cfg.json", "sae_weights.safetensors", "sparsity.safetensors"}
    assert all(path.is_file() for path in paths)
    (name, tensor), *rest = load_file(tmp_path / "sparsity.safetensors").items()
    assert rest == []
    assert name == "sparsity"
    assert torch.equal(tensor, sparsity.float())


def test_without_firing_frequencies_two_files_are_written(tmp_path: Path) -> None:
    paths = trained().save_model(tmp_path / "made" / "on the way")
    assert sorted(path.name for path in (tmp_path / "made" / "on the way").iterdir()) == [
        "cfg.json",
        "sae_weights.safetensors",
    ]
    assert sorted(path.name for path in paths) == ["cfg.json", "sae_weights.safetensors"]


def test_others_may_read_what_is_written(tmp_path: Path) -> None:
    for path in trained().save_model(tmp_path, torch.zeros(D_SAE)):
        assert path.stat().st_mode & 0o777 == 0o644, path.name


def test_an_sae_is_loaded_in_the_dtype_and_on_the_device_that_are_asked_for(folder: Path) -> None:
    half = SAE.load_from_disk(folder, dtype="bfloat16")
    assert half.cfg.dtype == "bfloat16"
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    assert SAE.load_from_disk(folder, dtype="torch.float64").cfg.dtype == "float64"
    elsewhere = SAE.load_from_disk(folder, device="meta")
    assert elsewhere.cfg.device == "meta"
    assert {p.device.type for p in elsewhere.parameters()} == {"meta"}
    with pytest.raises(PlatformError, match="'int8'.*bfloat16, float16, float32, float64"):
        SAE.load_from_disk(folder, dtype="int8")


def test_an_sae_from_another_device_is_loaded_on_the_one_that_is_asked_for(folder: Path) -> None:
    edit(folder, device="cuda:3")
    assert SAE.load_from_disk(folder).cfg.device == "cpu"


def test_loading_leaves_the_random_numbers_alone(folder: Path) -> None:
    before = torch.get_rng_state()
    SAE.load_from_disk(folder)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_class_loads_only_its_own_kind(folder: Path) -> None:
    with pytest.raises(PlatformError, match=r"StandardSAE.*GatedSAE.*SAE\.load_from_disk"):
        type(trained("gated")).load_from_disk(folder)
    assert type(trained()).load_from_disk(folder).cfg.architecture == "standard"


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
def test_a_faulty_folder_is_refused_with_its_fault(fault: str, folder: Path) -> None:
    spoil, message = FAULTS[fault]
    spoil(folder)
    with pytest.raises(PlatformError, match=message):
        SAE.load_from_disk(folder)


def test_a_folder_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(PlatformError, match=r"nowhere.*The folder does not exist"):
        SAE.load_from_disk(tmp_path / "nowhere")


def test_a_folder_above_an_sae_points_down_to_it(folder: Path) -> None:
    with pytest.raises(PlatformError, match=r"SAE folders inside it: .*an_sae\."):
        SAE.load_from_disk(folder.parent)


def test_unpickling_code_is_never_run(folder: Path, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "exploded",)

    (folder / weights.WEIGHTS).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(PlatformError, match="cannot be read"):
        SAE.load_from_disk(folder)
    assert not (tmp_path / "exploded").exists()


def _sae_at(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / weights.CONFIG).write_text("{}")
    return folder


def test_an_sae_folder_means_itself(folder: Path) -> None:
    assert weights.find_sae_folder(folder) == folder


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


def test_any_other_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(PlatformError, match="no run, checkpoint or SAE folder.*an_sae"):
        weights.find_sae_folder(tmp_path)
    with pytest.raises(PlatformError, match="does not exist"):
        weights.find_sae_folder(tmp_path / "nowhere")
