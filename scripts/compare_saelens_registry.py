"""Hold the registry to the directory of an installed sae-lens: every SAE, its repository, path, neuronpedia id and l0.

    sae-platform registry dump > saes.jsonl
    python -m scripts.compare_saelens_registry saes.jsonl

Run it with an interpreter that has sae-lens. It ends with 1 when anything differs.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

Facts = tuple[str, str, str | None, float | None]


def main() -> None:
    ours: dict[tuple[str, str], Facts] = {}
    for line in Path(sys.argv[1]).read_text().splitlines():
        sae = json.loads(line)
        ours[sae["release"], sae["sae_id"]] = sae["repo_id"], sae["path"], sae["neuronpedia_id"], sae["l0"]
    theirs = {
        (name, sae_id): (
            release.repo_id, str(path), release.neuronpedia_id.get(sae_id), release.expected_l0.get(sae_id) or None,
        )
        for name, release in get_pretrained_saes_directory().items()
        for sae_id, path in release.saes_map.items()
    }  # fmt: skip
    different = [key for key in ours.keys() & theirs.keys() if ours[key] != theirs[key]]
    for key in different[:10]:
        print(key, ours[key], theirs[key], sep="\n  ")
    print(f"{len(ours):,} here, {len(theirs):,} there, {len(ours.keys() ^ theirs.keys()):,} on one side only,")
    print(f"{len(different):,} that differ")
    sys.exit(bool(different or ours.keys() ^ theirs.keys()))


if __name__ == "__main__":
    main()
