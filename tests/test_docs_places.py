"""The table of places says what the code reads."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from language_models import FAMILIES, SIZES
from sae_platform import PlatformError
from sae_platform.hooks import ModuleHook, find_hook
from sae_platform.hooks.parts import Columns, Normalized, OfEachHead
from sae_platform.hooks.sites import INNER, SITES, Place

PAGE = Path(__file__).parent.parent / "docs/places.md"
SHOWN = ("gpt2", "llama", "gemma2", "gpt_neox")


def described(model: Any, site: str) -> str:
    """What is read at a site of layer 1, in words."""
    try:
        point = find_hook(model, str(Place(1, site)))
    except PlatformError:
        return "none"
    assert isinstance(point, ModuleHook)
    path = next(path for path, module in model.named_modules() if module is point.module)
    inside = re.fullmatch(r".*\.1\.?(.*)", path)
    assert inside is not None
    words = f"`{inside[1]}` {point.side}" if inside[1] else f"its {point.side}"
    if isinstance(point.part, Columns):
        words += f", part {point.part.start // (point.part.stop - point.part.start) + 1} of 3"
    if isinstance(point.part, OfEachHead):
        words += f", part {point.part.which + 1} of 3 of each head"
    if isinstance(point.part, Normalized):
        words += ", before the gain"
    return words


@pytest.fixture(scope="module")
def models() -> list[Any]:
    found = []
    for family in SHOWN:
        model_class, extra = getattr(transformers, FAMILIES[family][0]), FAMILIES[family][1]
        with torch.device("meta"):
            found.append(model_class(model_class.config_class(**SIZES, **extra)))
    return found


def test_the_table_of_places(models: list[Any]) -> None:
    lines = []
    for site in (*SITES, *INNER):
        name = str(Place(1, site)).removeprefix("blocks.1.")
        lines.append("| " + " | ".join([f"`{name}`", *(described(model, site) for model in models)]) + " |")
    table = "\n".join(lines)
    assert table in PAGE.read_text(), table
