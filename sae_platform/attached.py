"""What SAEs in a model computed in its last forward pass, and what is done to it in the next."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import index

import torch
from torch import Tensor

from sae_platform.errors import PlatformError, choices, nearest
from sae_platform.sae import SAE

INPUT, PRE, FEATURES = "hook_sae_input", "hook_sae_acts_pre", "hook_sae_acts_post"
RECONS, ERROR, OUTPUT = "hook_sae_recons", "hook_sae_error", "hook_sae_output"
CHANGED = (INPUT, FEATURES, RECONS, ERROR, OUTPUT)  # what functions can stand at, in their order
ErrorTerms = bool | None | Mapping[str, bool | None]  # of all, or by hook; None: as each SAE says
Edit = Callable[[Tensor], Tensor]  # a tensor to what stands in for it


class Attached(Mapping[str, Tensor]):
    """SAEs in a model: what they computed in its last forward pass, and what is done to their features in the next.

    A Mapping of `{hook}.hook_sae_input`, `.hook_sae_acts_pre` (computed when it is asked for), `.hook_sae_acts_post`,
    `.hook_sae_recons`, `.hook_sae_output` and, with error terms, `.hook_sae_error`.
    """

    def __init__(self, saes: Mapping[str, SAE], use_error_term: ErrorTerms) -> None:
        self._saes = dict(saes)
        given = use_error_term if isinstance(use_error_term, Mapping) else dict.fromkeys(saes, use_error_term)
        for hook in given:
            self._hook(hook)
        self._adds_error = {
            hook: sae.use_error_term if given.get(hook) is None else bool(given[hook]) for hook, sae in saes.items()
        }
        self._edits: dict[str, list[Edit]] = {}  # by the names of tensors
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

    def edit(self, function: Edit, hook: str | None = None, part: str = FEATURES) -> None:
        """Let a function of the features [..., d_sae] stand in for them, or of another `part` of what is computed.

        PlatformError for an unknown hook or part.
        """
        if part not in CHANGED:
            raise PlatformError(f"{part!r} cannot be changed.{nearest(part, CHANGED)} What can: {choices(CHANGED)}.")
        self._edits.setdefault(f"{self._hook(hook)}.{part}", []).append(function)

    def steer(self, feature: int, strength: float, hook: str | None = None) -> None:
        """Add `strength` to a feature at every token: to the model, `strength` times its decoder row."""
        place = self._hook(hook)
        (chosen,) = self._chosen(place, [feature])

        def add(features: Tensor) -> Tensor:
            features = features.clone()
            features[..., chosen] += strength
            return features

        self.edit(add, place)

    def ablate(self, features: int | Sequence[int] | Tensor, hook: str | None = None) -> None:
        """Set features to zero."""
        place = self._hook(hook)
        chosen = self._chosen(place, torch.as_tensor(features).reshape(-1).tolist())
        self.edit(lambda x: x.index_fill(-1, torch.tensor(chosen, device=x.device), 0.0), place)

    def release(self) -> None:
        """Let everything be what it is again."""
        self._edits.clear()

    def computed(self, hook: str, x: Tensor, written: Tensor | None = None) -> Tensor:
        """What an SAE puts in the place of activations, or a transcoder in that of those `written`."""
        sae = self._saes[hook]
        if x.device != sae.device:
            raise PlatformError(f"The SAE at {hook} is on {sae.device} and the model on {x.device}: move one of them.")
        if x.shape[-1] != sae.d_in:
            raise PlatformError(
                f"The SAE at {hook} reads activations of width {sae.d_in}, and there are {x.shape[-1]}."
            )
        read = self._at(hook, INPUT, x)
        features = sae.encode(read)
        if self._adds_error[hook]:  # of the features as they are
            with torch.no_grad():
                error = (x if written is None else written) - sae.decode(features, read)
        features = self._at(hook, FEATURES, features)
        y = self._at(hook, RECONS, sae.decode(features, read))
        if self._adds_error[hook]:
            y = y + self._at(hook, ERROR, error)
        return self._at(hook, OUTPUT, y)

    def _at(self, hook: str, part: str, x: Tensor) -> Tensor:
        name = f"{hook}.{part}"
        if edits := self._edits.get(name):
            x = x.clone()  # which they may change in place
            for edit in edits:
                x = edit(x)
        self._computed[name] = x
        return x

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

    def _chosen(self, hook: str, features: Sequence[int]) -> list[int]:
        count = self._saes[hook].d_sae
        for feature in features:
            if not hasattr(feature, "__index__") or not 0 <= index(feature) < count:
                raise PlatformError(f"There is no feature {feature!r} at {hook}; they are 0 to {count - 1}.")
        return [index(feature) for feature in features]
