"""Publish SAEs on the Hugging Face hub: one commit with a folder for each of them, and a model card."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from sae_platform.errors import PlatformError
from sae_platform.sae import SAE

CARD = """---
library_name: saelens
tags:
- saelens
- sparse-autoencoder
---

# Sparse autoencoders{of}

| folder | architecture | d_in | d_sae | hook |
| --- | --- | --- | --- | --- |
{rows}

```python
from sae_platform import SAE

sae = SAE.from_pretrained("{repo_id}", "{first}")
```
"""


def upload_saes_to_huggingface(
    saes: SAE | Iterable[SAE] | Mapping[str, SAE | str | Path] = (),
    repo_id: str | None = None,
    hf_revision: str = "main",
    add_default_readme: bool = True,
    *,
    token: str | None = None,
    private: bool = False,
    saes_dict: Mapping[str, SAE | str | Path] | None = None,
    hf_repo_id: str | None = None,
) -> str:
    """Upload SAEs, in the form people use, as one commit; returns its address.

    `saes` are SAEs, whose folders are called after their hooks, or SAEs (or folders of such) by the names of folders.
    The repository is made if it is not there; `token` is the one of `hf auth login` when not given. PlatformError says
    what the hub refused.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    repo = repo_id or hf_repo_id
    if not repo:
        raise PlatformError('Give the repository to upload to: repo_id="user/repository".')
    named = _named(saes_dict or saes)
    api = HfApi(os.environ.get("HF_ENDPOINT"), token=token)
    with tempfile.TemporaryDirectory() as scratch:
        files: dict[str, Path] = {}
        for name, sae in named.items():
            sae.inference_form().save_model(Path(scratch, name), sae.origin.sparsity if sae.origin else None)
            files |= {f"{name}/{path.name}": path for path in sorted(Path(scratch, name).iterdir())}
        try:
            api.create_repo(repo, private=private, exist_ok=True)
            if add_default_readme and not api.file_exists(repo, "README.md", revision=hf_revision):
                files["README.md"] = Path(scratch, "README.md")
                files["README.md"].write_text(card(repo, named))
            operations = [CommitOperationAdd(place, str(path)) for place, path in files.items()]
            message = f"Upload {len(named)} SAE{'s' if len(named) > 1 else ''}"
            commit = api.create_commit(repo, operations, commit_message=message, revision=hf_revision)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise PlatformError(f"The upload to {repo} failed, and nothing was committed: {reason}") from error
    return str(commit.commit_url)


def card(repo_id: str, saes: Mapping[str, SAE]) -> str:
    """The model card of a repository."""
    models = sorted({sae.cfg.metadata.model_name for sae in saes.values() if sae.cfg.metadata.model_name})
    rows = [
        f"| {name} | {sae.cfg.architecture} | {sae.d_in:,} | {sae.d_sae:,} | {sae.cfg.metadata.hook_name or ''} |"
        for name, sae in saes.items()
    ]
    of = f" of {', '.join(models)}" if models else ""
    return CARD.format(of=of, rows="\n".join(rows), repo_id=repo_id, first=next(iter(saes)))


def _named(saes: SAE | Iterable[SAE] | Mapping[str, SAE | str | Path]) -> dict[str, SAE]:
    """SAEs by the names of their folders."""
    if isinstance(saes, Mapping):
        named = {name: sae if isinstance(sae, SAE) else SAE.load_from_disk(sae) for name, sae in saes.items()}
    else:
        named = {}
        for sae in [saes] if isinstance(saes, SAE) else saes:
            hook = sae.cfg.metadata.hook_name or "sae"
            name, number = hook, 1
            while name in named:
                number += 1
                name = f"{hook}-{number}"
            named[name] = sae
    if not named:
        raise PlatformError("There is no SAE to upload.")
    for name in named:
        if name.startswith("/") or ".." in Path(name).parts:
            raise PlatformError(f"{name!r} cannot be a folder of a repository.")
    return named
