"""Short names that TransformerLens, SAELens and the registry give models, as names on the Hugging Face hub."""

from __future__ import annotations

import re

SHORT_NAMES = {
    r"gpt2-small": "openai-community/gpt2",
    r"gpt2-(medium|large|xl)": r"openai-community/gpt2-\1",
    r"gemma-((?:2-)?\d+b(?:-it)?)": r"google/gemma-\1",
    r"pythia-([\d.]+[mb](?:-deduped)?)": r"EleutherAI/pythia-\1",
    r"qwen(3|2\.5)-([\d.]+)b": r"Qwen/Qwen\1-\2B",
    r"mistral-7b": "mistralai/Mistral-7B-v0.1",
    r"tiny-stories-1L-21M": "roneneldan/TinyStories-1Layer-21M",
    r"tiny-stories-(\d+M)": r"roneneldan/TinyStories-\1",
}


def hub_name(name: str) -> str:
    """The name on the hub; a name that is not a short one stays as it is."""
    for pattern, place in SHORT_NAMES.items():
        if found := re.fullmatch(pattern, name):
            return found.expand(place)
    return name
