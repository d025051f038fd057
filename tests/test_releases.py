"""Release files: what they say, in few words or many, and what is wrong with them, by line."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from sae_platform import PlatformError
from sae_platform.releases import RELEASE_KEYS, Release, local_folder, read_release, written

HEAD = 'model = "gpt2-small"\nrepo_id = "user/repo"\n'
ONE = '[[saes]]\nid = "a"\n'
DIGEST = "0" * 64
README = Path(__file__).parent.parent / "registry/README.md"


def release(tmp_path: Path, text: str) -> Release:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    return read_release(file)


def test_a_row_is_an_sae(tmp_path: Path) -> None:
    found = release(
        tmp_path,
        HEAD + 'format = "hook_z"\n[links]\nmodel = "https://example.org"\n[config]\nprepend_bos = false\n'
        '[[saes]]\nid = "a"\npath = "b/c"\nlayer = 3\nsite = "z"\nwidth = 16\nl0 = 2.5\nneuronpedia_id = "m/3-z"\n',
    )  # fmt: skip
    (sae,) = found.saes.values()
    assert (sae.release, sae.sae_id, sae.model, sae.repo_id, sae.path) == (
        "mine",
        "a",
        "gpt2-small",
        "user/repo",
        "b/c",
    )
    assert (sae.format, sae.layer, sae.site, sae.width, sae.l0) == ("hook_z", 3, "z", 16, 2.5)
    assert (sae.neuronpedia_id, sae.variance_explained, sae.revision) == ("m/3-z", None, None)
    assert found.links == {"model": "https://example.org"}
    assert found.config == {"prepend_bos": False}


def test_a_path_is_the_id_and_a_format_saelens_when_left_out(tmp_path: Path) -> None:
    (sae,) = release(tmp_path, HEAD + ONE).saes.values()
    assert (sae.path, sae.format) == ("a", "saelens")


def test_files_may_have_digests_and_lie_on_this_machine(tmp_path: Path) -> None:
    text = f'model = "gpt2"\nrepo_id = "local:/saes"\n[sha256]\n"a/cfg.json" = "{DIGEST}"\n{ONE}'
    found = release(tmp_path, text)
    assert found.sha256 == {"a/cfg.json": DIGEST}
    assert local_folder(found.repo_id) == Path("/saes")
    assert local_folder("user/repo") is None


def test_the_example_in_the_readme_of_the_registry_is_sound(tmp_path: Path) -> None:
    (example,) = re.findall(r"^```toml\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)
    found = release(tmp_path, example)
    assert len(found.saes) == 4
    assert set(tomllib.loads(example)) == set(RELEASE_KEYS)


def test_lists_are_read_side_by_side_and_stand_in_templates(tmp_path: Path) -> None:
    row = (
        '[[saes]]\nid = "layer_{layer}/l0_{l0}"\npath = "{a}/{layer}"\nwidth = 8\n'
        'layer = [0, 10]\nl0 = [46, 105]\nvars = { a = ["x", "07"] }\n'
    )
    found = release(tmp_path, HEAD + row)
    assert [(sae.sae_id, sae.path, sae.layer, sae.l0, sae.width) for sae in found.saes.values()] == [
        ("layer_0/l0_46", "x/0", 0, 46, 8), ("layer_10/l0_105", "07/10", 10, 105, 8),
    ]  # fmt: skip
    assert list(found.saes) == ["layer_0/l0_46", "layer_10/l0_105"]


def test_what_is_written_is_read_again() -> None:
    content = {
        "model": 'a "quoted" name', "repo_id": "user/repo", "links": {"model": "https://example.org"},
        "config": {"model_from_pretrained_kwargs": {"center_writing_weights": True}},
        "sha256": {"layer 1/cfg.json": DIGEST, "naïve": DIGEST},
        "saes": [{"id": "a"}, {"id": "l{layer}", "layer": list(range(200)), "vars": {"b": [1, 2]}}],
    }  # fmt: skip
    text = written(content)
    assert tomllib.loads(text) == content
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        (HEAD, 1, "saes is missing."),
        ('repo_id = "user/repo"\n' + ONE, 1, "model is missing."),
        (HEAD + 'licence = "mit"\n' + ONE, 3, "'licence' is not a field of a release. Did you mean 'license'?"),
        (HEAD + 'format = ""\n' + ONE, 3, "format is '', but must be a str with something in it."),
        ('model = "m"\nrepo_id = "repo"\n' + ONE, 2, "repo_id is 'repo', but must be user/repository, or local: and"),
        ('model = "m"\nrepo_id = "local:saes"\n' + ONE, 2, "repo_id is 'local:saes', but must be user/repository, or"),
        (HEAD + 'revision = "main"\n' + ONE, 3, "revision is 'main', but must be a commit of 40 hexadecimal digits."),
        (HEAD + ONE + '[[saes]]\npath = "b"\n', 5, "id is missing."),
        (HEAD + ONE + 'laye = 1\n', 5, "'laye' is not a field of an SAE. Did you mean 'layer'?"),
        (HEAD + ONE + 'layer = "1"\n', 5, "layer holds '1', which is not a number."),
        (HEAD + ONE + "layer = true\n", 5, "layer holds True, which is not a number."),
        (HEAD + ONE + "path = 7\n", 5, "path holds 7, which is not text."),
        (HEAD + ONE + 'site = "resid_pots"\n', 5, "site holds 'resid_pots'. Did you mean 'resid_post'?"),
        (HEAD + ONE + 'path = "../b"\n', 5, "path holds '../b', which leaves the repository."),
        (HEAD + ONE + 'path = "/etc"\n', 5, "path holds '/etc', which leaves the repository."),
        (HEAD + ONE + 'neuronpedia_id = "gpt2"\n', 5, "neuronpedia_id holds 'gpt2', which is not model/source."),
        (HEAD + '[[saes]]\nid = "{layer}"\n', 4, "id asks for {layer}, which the row does not have."),
        (HEAD + '[[saes]]\nid = "a{b"\n', 4, "id asks for {}, which the row does not have."),
        (HEAD + '[[saes]]\nid = "{l0.real}"\nl0 = 1\n', 4, "id asks for {l0.real}, which the row does not have."),
        (HEAD + '[[saes]]\nid = "{l0}"\nl0 = [1, 2]\nlayer = [1]\n', 5, "lists of a row must have the same length"),
        (HEAD + '[[saes]]\nid = "{l0}"\nl0 = []\n', 5, "lists of a row must have the same length"),
        (HEAD + ONE + ONE, 6, "the id 'a' appears twice."),
        (HEAD + '[[saes]]\nid = "a"\nl0 = [1, 2]\n', 4, "the id 'a' appears twice."),
        (HEAD + 'saes = [3]\n', 3, "saes holds 3, not a table."),
        (HEAD + f'[sha256]\n"a/b" = "{DIGEST}"\n"a/c" = "0"\n' + ONE, 5, "sha256 of a/c is '0', but must be 64"),
        (HEAD + ONE + f'[sha256]\n"../b" = "{DIGEST}"\n', 6, "sha256 names '../b', which leaves the repository."),
        (HEAD + f'[sha256]\na.b = "{DIGEST}"\n' + ONE, 4, "sha256 of a is {'b': "),
        (HEAD + f'sha256 = "{DIGEST}"\n' + ONE, 3, "sha256 is '0000"),
        (HEAD + "[sha256]\n" + ONE, 3, "sha256 is {}, but must be a dict with something in it."),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_line(tmp_path: Path, text: str, line: int, problem: str) -> None:
    with pytest.raises(PlatformError) as error:
        release(tmp_path, text)
    assert str(error.value).startswith(f"{tmp_path}/mine.toml:{line}: {problem}")


def test_every_mistake_is_named(tmp_path: Path) -> None:
    with pytest.raises(PlatformError) as error:
        release(tmp_path, HEAD + ONE + "width = 1.5\n" + ONE + "l0 = 'many'\n")
    assert [line.split(":")[1] for line in str(error.value).splitlines()] == ["5", "8"]


@pytest.mark.parametrize("content", [b"model = ", b"model = '\xff'", b'model = "a"\nmodel = "b"'])
def test_what_is_no_toml_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "mine.toml").write_bytes(content)
    with pytest.raises(PlatformError, match="mine.toml is not a valid release file"):
        read_release(tmp_path / "mine.toml")
