"""Write registry/*.toml from the directory of SAEs that comes with an installed sae-lens.

    python -m scripts.import_saelens_registry PATH/TO/sae_lens/pretrained_saes.yaml

Facts alone are taken over: names, repositories, paths, numbers. Files that are not from there are left as they are.
Run it with an interpreter that has PyYAML.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import yaml

from sae_platform.releases import written

REGISTRY = Path(__file__).parent.parent / "registry"
FORMATS = {
    None: "saelens", "gemma_2": "gemma_scope", "gemma_3": "gemma_scope_2",
    "gemma_2_transcoder": "gemma_scope_transcoder",
    "dictionary_learning_1": "dictionary_learning", "llama_scope_r1_distill": "llama_scope_r1",
    "mwhanna_transcoder": "mwhanna", "mntss_clt_layer_transcoder": "mntss", "connor_rob_hook_z": "hook_z",
}  # fmt: skip
LAYER = re.compile(r"blocks\.(\d+)\.|layer_?(\d+)|^l(\d+)[ram]_")
SITE_WORDS = (
    ("transcoder", "transcoder"), ("clt", "cross_layer_transcoder"), ("embedding", "embedding"), ("hook_z", "z"),
    ("resid_pre", "resid_pre"), ("resid_mid", "resid_mid"), ("resid_post", "resid_post"), ("attn_out", "attn_out"),
    ("mlp_out", "mlp_out"), ("mlp", "mlp_out"), ("lxa", "attn_out"), ("lxm", "mlp_out"), ("lxr", "resid_post"),
    ("-res", "resid_post"), ("r1_distill", "resid_post"), ("qwen-scope", "resid_post"), ("goodfire", "resid_post"),
)  # fmt: skip
WIDTHS = {"4k": 2**12, "8k": 2**13, "16k": 2**14, "32k": 2**15, "64k": 2**16, "65k": 2**16, "80k": 80 * 1024,
          "128k": 2**17, "131k": 2**17, "262k": 2**18, "524k": 2**19, "1m": 2**20}  # fmt: skip


def main() -> None:
    directory = yaml.safe_load(Path(sys.argv[1]).read_text())
    for name, release in directory.items():
        (REGISTRY / f"{name}.toml").write_text(written(converted(name, release)))
    print(f"{len(directory)} releases, {sum(len(release['saes']) for release in directory.values()):,} SAEs")


def converted(name: str, release: dict[str, Any]) -> dict[str, Any]:
    """A release in our schema."""
    found = {"model": release["model"], "repo_id": release["repo_id"],
             "format": FORMATS.get(release["conversion_func"], release["conversion_func"])}  # fmt: skip
    if release.get("links"):
        found["links"] = release["links"]
    if release.get("config_overrides"):
        found["config"] = release["config_overrides"]
    groups: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for given in release["saes"]:
        sae = facts(name, found["format"], given)
        shape = tuple((key, re.sub(r"\d+", "#", value) if isinstance(value, str) else "") for key, value in sae.items())
        groups[shape, sae.get("site"), sae.get("width")].append(sae)
    return {**found, "saes": [row(group) for group in groups.values()]}


def facts(release: str, form: str, given: dict[str, Any]) -> dict[str, Any]:
    """What is known of an SAE; a release that lies nested in one of its own entries (a defect) is left out."""
    sae_id, path = str(given["id"]), str(given["path"])
    sae: dict[str, Any] = {"id": sae_id}
    if path != sae_id:
        sae["path"] = path
    if "neuronpedia" in given:
        sae["neuronpedia_id"] = given["neuronpedia"]
    layer = LAYER.search(sae_id) or LAYER.search(path)
    if layer:
        sae["layer"] = int(next(number for number in layer.groups() if number))
    site = site_of(release, form, sae_id)
    if site:
        sae["site"] = site
    width = width_of(release, sae_id, given.get("neuronpedia") or "")
    if width:
        sae["width"] = width
    for key in ("l0", "variance_explained", "norm_scaling_factor"):
        if given.get(key) is not None:
            sae[key] = given[key]
    return sae


def site_of(release: str, form: str, sae_id: str) -> str | None:
    if form in ("gemma_scope", "gemma_scope_2") and "-att" in release:
        return "z"  # attention heads before their output matrix
    return next((site for word, site in SITE_WORDS if word in sae_id), None) or next(
        (site for word, site in SITE_WORDS if word in release), None
    )


def width_of(release: str, sae_id: str, neuronpedia: str) -> int | None:
    power = re.search(r"width-2pow(\d+)", release)
    if power:
        return 2 ** int(power[1])
    for text, pattern in (
        (sae_id, r"width_(\d+[km])"), (release, r"-w(\d+k)-"), (release, r"-v5-(\d+k)$"),
        (neuronpedia, r"-(\d+[km])(?:__|$)"), (neuronpedia, r"_(\d+k)-oai$"),
    ):  # fmt: skip
        match = re.search(pattern, text)
        if match and match[1] in WIDTHS:
            return WIDTHS[match[1]]
    return None


def row(group: list[dict[str, Any]]) -> dict[str, Any]:
    """One row for SAEs that differ in numbers alone."""
    if len(group) == 1:
        return group[0]
    columns: dict[str, list[Any]] = {}
    shared: dict[str, Any] = {}
    for key in group[0]:
        if key not in ("id", "path", "neuronpedia_id"):
            values = [sae[key] for sae in group]
            if all(value == values[0] for value in values):
                shared[key] = values[0]
            else:
                columns[key] = values
    spare: dict[str, list[str | int]] = {}
    templates = {}
    for key in ("id", "path", "neuronpedia_id"):
        if key in group[0]:
            templates[key] = template([sae[key] for sae in group], columns, spare)
    return {**templates, **shared, **columns, **({"vars": spare} if spare else {})}


def template(texts: list[str], columns: dict[str, list[Any]], spare: dict[str, list[str | int]]) -> str:
    """The texts, with {names} for the numbers in which they differ; numbers that no field holds become `spare` ones."""
    pieces = [re.split(r"(\d+)", text) for text in texts]
    written = []
    for at, parts in enumerate(zip(*pieces, strict=True)):
        if at % 2 == 0 or all(part == parts[0] for part in parts):
            written.append(parts[0])
            continue
        lists = {**columns, **spare}
        name = next((key for key, values in lists.items() if [str(value) for value in values] == list(parts)), None)
        if name is None:
            name = "abcdefghij"[len(spare)]
            plain = all(str(int(part)) == part for part in parts)
            spare[name] = [int(part) for part in parts] if plain else list(parts)
        written.append(f"{{{name}}}")
    return "".join(written)


if __name__ == "__main__":
    main()
