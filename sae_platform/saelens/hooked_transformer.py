"""TransformerLens' bridge with SAEs in it, under the names that SAELens gives what can be done with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from inspect import signature
from typing import Any, Self

import torch

from sae_platform.attached import CHANGED, Attached, Edit
from sae_platform.devices import usable_device
from sae_platform.errors import PlatformError, choices, nearest
from sae_platform.hooked import attach
from sae_platform.hooks.bridges import process
from sae_platform.model_names import hub_name
from sae_platform.sae import SAE
from sae_platform.saelens.functions import HookFunction, backward, forward

Hook = tuple[str | Callable[[str], bool], HookFunction]
NamesFilter = str | Sequence[str] | Callable[[str], bool] | None
Placed = tuple[str, str, Edit]  # the hook of an SAE, the part of what it computes, and a function of that
OWN = ("bridge", "acts_to_saes", "_error_terms", "_edits")
MOVES = ("eval", "train", "to", "cuda", "cpu", "mps", "half", "float", "double", "bfloat16", "requires_grad_")
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
        self._edits: list[Placed] = []

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
        kind = dtype if isinstance(dtype, torch.dtype) else getattr(torch, dtype.removeprefix("torch."), None)
        if not isinstance(kind, torch.dtype):
            raise PlatformError(f"There is no dtype {dtype!r}; one is float32, float16, bfloat16 or float64.")
        try:
            bridge = TransformerBridge.boot_transformers(hub_name(model_name), device=place, dtype=kind, **settings)
        except (OSError, ValueError, TypeError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise PlatformError(
                f"TransformerLens cannot load the model {model_name!r}: {reason} "
                "Give a local folder or a name from https://huggingface.co/models."
            ) from error
        process(bridge, fold_ln, center_writing_weights, center_unembed, fold_value_biases)
        return cls(bridge)

    from_pretrained_no_processing = boot_transformers = from_pretrained  # processed only as asked for, by any name

    def __getattr__(self, name: str) -> Any:
        if name == "bridge":
            raise AttributeError(name)
        found = getattr(self.bridge, name)
        if name in RUNS:
            return self._with_saes(found)
        return self._as_this(found) if name in MOVES else found

    def __setattr__(self, name: str, value: Any) -> None:
        if name in OWN:
            super().__setattr__(name, value)
        else:
            setattr(self.bridge, name, value)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._check_settings(kwargs)
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

    def run_with_hooks(
        self, *args: Any, fwd_hooks: Iterable[Hook] = (), bwd_hooks: Iterable[Hook] = (), **kwargs: Any
    ) -> Any:
        """The output with functions at hooks, among them the features of SAEs, `{hook}.hook_sae_acts_post`."""
        edits, fwd, bwd = self._sorted(fwd_hooks, bwd_hooks)
        with self._edited(edits), self._attached():
            return self.bridge.run_with_hooks(*args, fwd_hooks=fwd, bwd_hooks=bwd, **kwargs)

    @contextmanager
    def hooks(self, fwd_hooks: Iterable[Hook] = (), bwd_hooks: Iterable[Hook] = (), **settings: Any) -> Iterator[Self]:
        """While open, with functions at hooks, among them those of SAEs."""
        edits, fwd, bwd = self._sorted(fwd_hooks, bwd_hooks)
        with self._edited(edits), self.bridge.hooks(fwd_hooks=fwd, bwd_hooks=bwd, **settings):
            yield self

    def add_hook(
        self, name: str | Callable[[str], bool], hook_fn: HookFunction, dir: str = "fwd", **settings: Any
    ) -> None:
        """Keep a function at a hook of the model or of an SAE, until `reset_hooks`."""
        edits, fwd, bwd = self._sorted(*([(name, hook_fn)], []) if dir == "fwd" else ([], [(name, hook_fn)]))
        self._edits += edits
        if fwd or bwd:
            self.bridge.add_hook(name, hook_fn, dir=dir, **settings)

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
            for hook, part, edit in self._edits:
                if hook in self.acts_to_saes:
                    attached.edit(edit, hook, part)
            yield attached

    def _with_saes(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            with self._attached():
                return method(*args, **kwargs)

        return run

    def _as_this(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def move(*args: Any, **kwargs: Any) -> Any:
            found = method(*args, **kwargs)
            return self if found is self.bridge else found

        return move

    def _check_settings(self, settings: Iterable[str]) -> None:
        """PlatformError for what neither the bridge nor its model knows, which the bridge would not look at."""
        known = {
            name
            for run in (self.bridge.forward, self.bridge.original_model.forward)
            for name, each in signature(run).parameters.items()
            if each.kind is not each.VAR_KEYWORD
        }
        if unknown := [name for name in settings if name not in known]:
            near = nearest(unknown[0], [*known, "saes", "use_error_term"])
            raise PlatformError(f"{unknown[0]} is no setting of a run of the model.{near}")

    @contextmanager
    def _edited(self, edits: list[Placed]) -> Iterator[None]:
        before = list(self._edits)
        self._edits += edits
        try:
            yield
        finally:
            self._edits = before

    def _sorted(self, fwd: Iterable[Hook], bwd: Iterable[Hook]) -> tuple[list[Placed], list[Hook], list[Hook]]:
        """Of functions at hooks, those at hooks of SAEs, and those at hooks of the model."""
        of_saes = {f"{hook}.{part}": (hook, part) for hook in self.acts_to_saes for part in CHANGED}
        edits: list[Placed] = []
        others: tuple[list[Hook], list[Hook]] = ([], [])
        for hooks, wrapped, rest in ((fwd, forward, others[0]), (bwd, backward, others[1])):
            for name, function in hooks:
                chosen = [each for each in of_saes if (name(each) if callable(name) else name == each)]
                edits += [(*of_saes[each], wrapped(each, function)) for each in chosen]
                if callable(name) or not _is_of_sae(name):
                    rest.append((name, function))
                elif not chosen:
                    near = nearest(name, of_saes)
                    raise PlatformError(f"{name!r} cannot be changed.{near} What can: {choices(of_saes) or 'nothing'}.")
        return edits, *others


SAETransformerBridge = HookedSAETransformer  # its other name in SAELens 6


def _is_of_sae(name: str) -> bool:
    return ".hook_sae_" in name
