"""TransformerLens' bridge with SAEs in it, under the names that SAELens gives what can be done with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any, Self

import torch
from torch import Tensor

from sae_platform.devices import usable_device
from sae_platform.errors import PlatformError
from sae_platform.hooked import FEATURES, Attached, Edit, attach
from sae_platform.model_names import hub_name
from sae_platform.sae import SAE

HookFunction = Callable[..., Any]  # (activation, hook=...) to what stands in for it, or None
Hook = tuple[str | Callable[[str], bool], HookFunction]
NamesFilter = str | Sequence[str] | Callable[[str], bool] | None
RUNS = ("forward", "generate", "hf_generate", "encoder_output", "diffusion_generate", "predict_next_sentence")


class HookedSAETransformer:
    """A model that runs with the SAEs added to it; everything that is not here is the bridge's own.

    SAEs are found at their `hook_name`, one at each; a hook that the model does not have is an error. One whose
    metadata asks for centred weights gets centred activations, whether the weights of the model are centred or not.
    """

    def __init__(self, bridge: Any) -> None:
        self.bridge = bridge
        self.acts_to_saes: dict[str, SAE] = {}
        self._error_terms: dict[str, bool | None] = {}
        self._edits: list[tuple[str, Edit]] = []  # of features, by the hooks of their SAEs

    @classmethod
    def from_pretrained(
        cls, model_name: str, device: str = "cpu", dtype: str | torch.dtype = "float32", fold_ln: bool = False,
        center_writing_weights: bool = False, center_unembed: bool = False, fold_value_biases: bool = False,
        **settings: Any,
    ) -> Self:  # fmt: skip
        """A model by its name on the hub or its folder; its weights are processed only as is asked for.

        `settings` are those of `TransformerBridge.boot_transformers`. PlatformError when TransformerLens is not
        installed or cannot load the model, or there is no such device.
        """
        if find_spec("transformer_lens") is None:
            raise PlatformError("This needs TransformerLens 4: pip install 'sae-platform[transformer-lens]'.")
        from transformer_lens.model_bridge import TransformerBridge

        place = usable_device(device)
        kind = getattr(torch, dtype) if isinstance(dtype, str) else dtype
        try:
            bridge = TransformerBridge.boot_transformers(hub_name(model_name), device=place, dtype=kind, **settings)
        except (OSError, ValueError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise PlatformError(
                f"TransformerLens cannot load the model {model_name!r}: {reason} "
                "Give a local folder or a name from https://huggingface.co/models."
            ) from error
        processing = {
            "fold_ln": fold_ln, "center_writing_weights": center_writing_weights, "center_unembed": center_unembed,
            "fold_value_biases": fold_value_biases,
        }  # fmt: skip
        if any(processing.values()):
            bridge.enable_compatibility_mode(disable_warnings=True, **processing)
        return cls(bridge)

    from_pretrained_no_processing = from_pretrained

    def __getattr__(self, name: str) -> Any:
        if name == "bridge":
            raise AttributeError(name)
        found = getattr(self.bridge, name)
        return self._with_saes(found) if name in RUNS else found

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self._attached():
            return self.bridge(*args, **kwargs)

    def add_sae(self, sae: SAE, use_error_term: bool | None = None) -> None:
        """Keep an SAE in the model, in place of another at its hook. PlatformError when the model has no such hook."""
        hook = sae.cfg.metadata.hook_name
        with attach(self.bridge, sae):
            assert hook is not None
        self.acts_to_saes[hook], self._error_terms[hook] = sae, use_error_term

    def reset_saes(self, act_names: str | Iterable[str] | None = None) -> None:
        """Take out the SAEs at these hooks, or all of them. PlatformError when there is none at one of them."""
        names = (
            [act_names] if isinstance(act_names, str) else list(self.acts_to_saes if act_names is None else act_names)
        )
        for name in names:
            if name not in self.acts_to_saes:
                raise PlatformError(f"There is no SAE at {name!r}. SAEs: {', '.join(self.acts_to_saes) or 'none'}.")
            del self.acts_to_saes[name], self._error_terms[name]

    @contextmanager
    def saes(
        self, saes: SAE | Iterable[SAE] = (), reset_saes_end: bool = True, use_error_term: bool | None = None
    ) -> Iterator[Self]:
        """While open, with these SAEs too; afterwards with those that were there before, unless they are to stay."""
        before = dict(self.acts_to_saes), dict(self._error_terms)
        try:
            for sae in [saes] if isinstance(saes, SAE) else saes:
                self.add_sae(sae, use_error_term)
            yield self
        finally:
            if reset_saes_end:
                self.acts_to_saes, self._error_terms = before

    def run_with_saes(
        self, *args: Any, saes: SAE | Iterable[SAE] = (), reset_saes_end: bool = True,
        use_error_term: bool | None = None, **kwargs: Any,
    ) -> Any:  # fmt: skip
        """The model's output with these SAEs in it."""
        with self.saes(saes, reset_saes_end, use_error_term):
            return self(*args, **kwargs)

    def run_with_cache(
        self, *args: Any, names_filter: NamesFilter = None, remove_batch_dim: bool = False, **kwargs: Any
    ) -> tuple[Any, Any]:
        """Output and cache; the SAEs' own activations are in it as `{hook}.hook_sae_acts_post` and its siblings."""
        named = [names_filter] if isinstance(names_filter, str) else names_filter
        of_model = named if named is None or callable(named) else [name for name in named if not _is_of_sae(name)]
        with self._attached() as attached:
            output, cache = self.bridge.run_with_cache(
                *args, names_filter=of_model, remove_batch_dim=remove_batch_dim, **kwargs
            )
        for name in attached:
            if named is None or (named(name) if callable(named) else name in named):
                found = attached[name].detach()
                single = remove_batch_dim and len(found) == 1
                (cache if isinstance(cache, dict) else cache.cache_dict)[name] = found[0] if single else found
        return output, cache

    def run_with_cache_with_saes(
        self, *args: Any, saes: SAE | Iterable[SAE] = (), reset_saes_end: bool = True,
        use_error_term: bool | None = None, **kwargs: Any,
    ) -> tuple[Any, Any]:  # fmt: skip
        """Output and cache with these SAEs in the model."""
        with self.saes(saes, reset_saes_end, use_error_term):
            return self.run_with_cache(*args, **kwargs)

    def run_with_hooks(self, *args: Any, fwd_hooks: Iterable[Hook] = (), **kwargs: Any) -> Any:
        """The output with functions at hooks, among them the features of SAEs, `{hook}.hook_sae_acts_post`."""
        edits, others = self._sorted(fwd_hooks)
        with self._edited(edits), self._attached():
            return self.bridge.run_with_hooks(*args, fwd_hooks=others, **kwargs)

    @contextmanager
    def hooks(self, fwd_hooks: Iterable[Hook] = (), **settings: Any) -> Iterator[Self]:
        """While open, with functions at hooks, among them the features of SAEs."""
        edits, others = self._sorted(fwd_hooks)
        with self._edited(edits), self.bridge.hooks(fwd_hooks=others, **settings):
            yield self

    def add_hook(self, name: str | Callable[[str], bool], hook_fn: HookFunction, *args: Any, **settings: Any) -> None:
        """Keep a function at a hook, or at the features of an SAE, until `reset_hooks`."""
        edits, others = self._sorted([(name, hook_fn)])
        self._edits += edits
        if others:
            self.bridge.add_hook(name, hook_fn, *args, **settings)

    def reset_hooks(self, *args: Any, **settings: Any) -> None:
        """Take out the functions at hooks; SAEs stay."""
        self._edits.clear()
        self.bridge.reset_hooks(*args, **settings)

    def generate_stream(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        """The bridge's own, with the SAEs in the model."""
        with self._attached():
            yield from self.bridge.generate_stream(*args, **kwargs)

    def run_with_hooks_with_saes(
        self, *args: Any, saes: SAE | Iterable[SAE] = (), reset_saes_end: bool = True,
        use_error_term: bool | None = None, **kwargs: Any,
    ) -> Any:  # fmt: skip
        """The output with functions at hooks and these SAEs in the model."""
        with self.saes(saes, reset_saes_end, use_error_term):
            return self.run_with_hooks(*args, **kwargs)

    @contextmanager
    def _attached(self) -> Iterator[Attached]:
        with attach(self.bridge, self.acts_to_saes, self._error_terms) as attached:
            for hook, edit in self._edits:
                if hook in self.acts_to_saes:
                    attached.edit(edit, hook)
            yield attached

    def _with_saes(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            with self._attached():
                return method(*args, **kwargs)

        return run

    @contextmanager
    def _edited(self, edits: list[tuple[str, Edit]]) -> Iterator[None]:
        before = list(self._edits)
        self._edits += edits
        try:
            yield
        finally:
            self._edits = before

    def _sorted(self, hooks: Iterable[Hook]) -> tuple[list[tuple[str, Edit]], list[Hook]]:
        """Of functions at hooks, those at the features of SAEs, and those at hooks of the model."""
        of_features = {f"{hook}.{FEATURES}": hook for hook in self.acts_to_saes}
        edits: list[tuple[str, Edit]] = []
        others: list[Hook] = []
        for name, function in hooks:
            chosen = [feature for feature in of_features if (name(feature) if callable(name) else name == feature)]
            edits += [(of_features[feature], _as_edit(feature, function)) for feature in chosen]
            if callable(name) or not _is_of_sae(name):
                others.append((name, function))
            elif not chosen:
                raise PlatformError(f"{name!r} cannot be changed. Features: {', '.join(of_features) or 'none'}.")
        return edits, others


def _is_of_sae(name: str) -> bool:
    return ".hook_sae_" in name


def _as_edit(name: str, function: HookFunction) -> Edit:
    def edit(features: Tensor) -> Tensor:
        changed = function(features, hook=SimpleNamespace(name=name))
        return features if changed is None else changed

    return edit
