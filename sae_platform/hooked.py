"""Run a model with SAEs in it: reconstructions stand in for activations, features can be read and changed.

with attach(model, sae) as attached:
    attached.steer(123, 5.0)
    model.generate(tokens)
    features = attached["blocks.1.hook_resid_post.hook_sae_acts_post"]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from sae_platform.errors import PlatformError, choices, nearest
from sae_platform.hooks import HookPoint, find_hook
from sae_platform.sae import SAE

INPUT, PRE, FEATURES = "hook_sae_input", "hook_sae_acts_pre", "hook_sae_acts_post"
ErrorTerms = bool | None | Mapping[str, bool | None]  # of all, or by hook; None: as each SAE says
Edit = Callable[[Tensor], Tensor]  # features [..., d_sae] to what stands in for them


class Attached(Mapping[str, Tensor]):
    """SAEs in a model: what they computed in its last forward pass, and what is done to their features in the next.

    A Mapping of `{hook}.hook_sae_input`, `.hook_sae_acts_pre` (computed when it is asked for), `.hook_sae_acts_post`,
    `.hook_sae_recons`, `.hook_sae_output` and, with error terms, `.hook_sae_error`.
    """

    def __init__(self, saes: Mapping[str, SAE], use_error_term: ErrorTerms) -> None:
        self._saes = dict(saes)
        given = use_error_term if isinstance(use_error_term, Mapping) else dict.fromkeys(saes, use_error_term)
        self._adds_error = {
            hook: sae.use_error_term if given[hook] is None else given[hook] for hook, sae in saes.items()
        }
        self._edits: dict[str, list[Edit]] = {hook: [] for hook in saes}
        self._computed: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        if name in self._pre():
            hook = name.removesuffix(f".{PRE}")
            return self._saes[hook].preactivations(self._computed[f"{hook}.{INPUT}"])
        if name not in self._computed:
            raise KeyError(f"There is no {name!r}.{nearest(name, self)} Computed: {choices(self)}.")
        return self._computed[name]

    def __iter__(self) -> Iterator[str]:
        return iter([*self._computed, *self._pre()])

    def __len__(self) -> int:
        return len(self._computed) + len(self._pre())

    def edit(self, function: Edit, hook: str | None = None) -> None:
        """Let a function of the features [..., d_sae] stand in for them. PlatformError for an unknown hook."""
        self._edits[self._hook(hook)].append(function)

    def steer(self, feature: int, strength: float, hook: str | None = None) -> None:
        """Add `strength` to a feature at every token: to the model, `strength` times its decoder row."""
        place = self._hook(hook)
        self._check(place, [feature])

        def add(features: Tensor) -> Tensor:
            features = features.clone()
            features[..., feature] += strength
            return features

        self.edit(add, place)

    def ablate(self, features: int | Sequence[int], hook: str | None = None) -> None:
        """Set features to zero."""
        chosen = [features] if isinstance(features, int) else list(features)
        place = self._hook(hook)
        self._check(place, chosen)
        self.edit(lambda x: x.index_fill(-1, torch.tensor(chosen, device=x.device), 0.0), place)

    def release(self) -> None:
        """Let features be what they are again."""
        for edits in self._edits.values():
            edits.clear()

    def computed(self, hook: str, x: Tensor) -> Tensor:
        """What an SAE puts in the place of activations, or writes for them if it is a transcoder."""
        sae = self._saes[hook]
        if x.device != sae.device:
            raise PlatformError(f"The SAE at {hook} is on {sae.device} and the model on {x.device}: move one of them.")
        features = clean = sae.encode(x)
        for edit in self._edits[hook]:
            features = edit(features)
        y = recons = sae.decode(features, x)
        self._computed |= {f"{hook}.{INPUT}": x, f"{hook}.{FEATURES}": features}
        if self._adds_error[hook]:
            with torch.no_grad():
                error = x - sae.decode(clean, x)
            y = recons + error
            self._computed[f"{hook}.hook_sae_error"] = error
        self._computed |= {f"{hook}.hook_sae_recons": recons, f"{hook}.hook_sae_output": y}
        return y

    def _pre(self) -> list[str]:
        """The names of pre-activations that can be computed."""
        return [
            f"{hook}.{PRE}"
            for hook, sae in self._saes.items()
            if f"{hook}.{INPUT}" in self._computed and type(sae).preactivations is not SAE.preactivations
        ]

    def _hook(self, hook: str | None) -> str:
        if hook is None and len(self._saes) == 1:
            return next(iter(self._saes))
        if hook is None or hook not in self._saes:
            near = nearest(hook, self._saes) if hook else ""
            raise PlatformError(f"Say of which SAE, by its hook, not {hook!r}.{near} Hooks: {choices(self._saes)}.")
        return hook

    def _check(self, hook: str, features: Sequence[int]) -> None:
        count = self._saes[hook].d_sae
        if wrong := [feature for feature in features if not 0 <= feature < count]:
            raise PlatformError(f"There is no feature {wrong[0]} at {hook}; they are 0 to {count - 1}.")


@contextmanager
def attach(
    model: Any, saes: SAE | Sequence[SAE] | Mapping[str, SAE], use_error_term: ErrorTerms = None
) -> Iterator[Attached]:
    """While open, the model runs with these SAEs at their hooks; afterwards, and after an exception, it is as before.

    `model` is any torch module, or a TransformerLens bridge; `saes` are found at their own `hook_name`, or at the hooks
    that they are given by. `use_error_term` adds what each fails to reconstruct (None: as each SAE says).
    PlatformError, before anything is attached, for a hook that the model does not have, or two SAEs at one.
    """
    by_hook = _by_hook(saes)
    points = {hook: (place_of(model, sae, hook), _written(model, sae)) for hook, sae in by_hook.items()}
    attached = Attached(by_hook, use_error_term)
    with ExitStack() as stack:
        for hook, (reads, writes) in points.items():
            stack.enter_context(_spliced(attached, hook, reads, writes))
        yield attached


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
        waiting.append(x)
        return x

    with reads.hooked(keep), writes.hooked(lambda y: attached.computed(hook, waiting.pop()).to(y)):
        yield


def _by_hook(saes: SAE | Sequence[SAE] | Mapping[str, SAE]) -> dict[str, SAE]:
    if isinstance(saes, Mapping):
        return dict(saes)
    found: dict[str, SAE] = {}
    for sae in [saes] if isinstance(saes, SAE) else saes:
        hook = sae.cfg.metadata.hook_name
        if hook is None:
            raise PlatformError("This SAE does not say where it reads: attach(model, {hook_name: sae}) says it.")
        if hook in found:
            raise PlatformError(f"Two SAEs read {hook}, and one stands in for the other there: attach one at a time.")
        found[hook] = sae
    return found


def _written(model: Any, sae: SAE) -> HookPoint | None:
    """Where a transcoder writes; None for an SAE, which writes where it reads."""
    if not hasattr(sae, "d_out"):
        return None
    place = (sae.cfg.metadata.model_extra or {}).get("hook_name_out")
    if place is None:
        raise PlatformError("This transcoder does not say where it writes: sae.describe(hook_name_out=...) says it.")
    return place_of(model, sae, place)
