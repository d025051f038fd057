"""Run a model with SAEs in it: reconstructions stand in for activations, features can be read and changed.

with attach(model, sae) as attached:
    attached.steer(123, 5.0)
    model.generate(tokens)
    features = attached["blocks.1.hook_resid_post.hook_sae_acts_post"]
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from sae_platform.attached import INPUT, Attached, ErrorTerms
from sae_platform.errors import PlatformError, choices
from sae_platform.hooks import HookPoint, Place, find_hook
from sae_platform.sae import SAE


@contextmanager
def attach(
    model: Any, saes: SAE | Sequence[SAE] | Mapping[str, SAE], use_error_term: ErrorTerms = None
) -> Iterator[Attached]:
    """While open, the model runs with these SAEs at their hooks; afterwards, and after an exception, it is as before.

    `model` is any torch module, or a TransformerLens bridge; `saes` are found at their own `hook_name`, or at the hooks
    that they are given by. `use_error_term` adds what each fails to reconstruct (None: as each SAE says).
    PlatformError, before anything is attached, for a hook that the model does not have, or two SAEs at one. A warning
    at the end for a hook that the model has and never came to.
    """
    model = getattr(model, "bridge", model)
    if not isinstance(model, nn.Module):
        raise PlatformError(f"SAEs are attached to a torch module, not to a {type(model).__name__}.")
    by_hook = _by_hook(saes)
    points = {hook: (place_of(model, sae, hook), _written(model, sae)) for hook, sae in by_hook.items()}
    attached = Attached(by_hook, use_error_term)
    runs: list[None] = []
    with ExitStack() as stack:
        stack.callback(model.register_forward_hook(lambda *_: runs.append(None)).remove)
        for hook, (reads, writes) in points.items():
            stack.enter_context(_spliced(attached, hook, reads, writes))
        yield attached
    if runs and (missed := [hook for hook in by_hook if f"{hook}.{INPUT}" not in attached]):
        warnings.warn(f"The model ran, and never came to {choices(missed)}: the SAE there did nothing.", stacklevel=3)


def place_of(model: Any, sae: SAE, hook: str) -> HookPoint:
    """Where a model has what an SAE reads, weights processed as the SAE's metadata asks. PlatformError if nowhere."""
    return find_hook(model, hook, sae.cfg.metadata.processing)


@contextmanager
def _spliced(attached: Attached, hook: str, reads: HookPoint, writes: HookPoint | None) -> Iterator[None]:
    """An SAE in place of what it reads, or a transcoder in place of what it writes."""
    if writes is None:
        with reads.hooked(lambda x: attached.computed(hook, x).to(x)):
            yield
        return
    waiting: list[Tensor] = []

    def keep(x: Tensor) -> Tensor:
        waiting[:] = [x]
        return x

    def write(y: Tensor) -> Tensor:
        if not waiting:
            raise PlatformError(f"The transcoder that reads {hook} writes before it: the model comes there first.")
        return attached.computed(hook, waiting.pop(), y).to(y)

    with reads.hooked(keep), writes.hooked(write):
        yield


def _by_hook(saes: SAE | Sequence[SAE] | Mapping[str, SAE]) -> dict[str, SAE]:
    given = [saes] if isinstance(saes, SAE) else list(saes.values() if isinstance(saes, Mapping) else saes)
    if wrong := [sae for sae in given if not isinstance(sae, SAE)]:
        raise PlatformError(f"{wrong[0]!r} is no SAE; SAE.load_from_disk(path) reads one.")
    hooks = list(saes) if isinstance(saes, Mapping) else [sae.cfg.metadata.hook_name for sae in given]
    found: dict[str, SAE] = {}
    written: dict[str, str] = {}
    for hook, sae in zip(hooks, given, strict=True):
        if hook is None:
            raise PlatformError("This SAE does not say where it reads: attach(model, {hook_name: sae}) says it.")
        place = _writes_at(sae) or hook
        place = str(Place.of(place) or place)
        if hook in found or place in written:
            other = hook if hook in found else written[place]
            raise PlatformError(f"Two SAEs are at {place}, of {other} and {hook}: attach one at a time.")
        found[hook], written[place] = sae, hook
    return found


def _writes_at(sae: SAE) -> str | None:
    """The name of the place where a transcoder writes; None for an SAE, which writes where it reads."""
    if not hasattr(sae, "d_out"):
        return None
    place: str | None = sae.cfg.metadata.hook_name_out
    if place is None:
        raise PlatformError("This transcoder does not say where it writes: sae.describe(hook_name_out=...) says it.")
    return place


def _written(model: Any, sae: SAE) -> HookPoint | None:
    """The place where a transcoder writes; None for an SAE."""
    place = _writes_at(sae)
    return None if place is None else place_of(model, sae, place)
