"""Find installed plugins, load each one in isolation, and answer what they offer."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points, version
from pathlib import Path
from typing import Literal, TypeVar

import pluggy
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from sae_platform import hookspecs
from sae_platform.components import (
    ActivationSourceConfig,
    ComponentConfig,
    ExporterConfig,
    LoggerConfig,
    SAEConfig,
    WeightFormat,
)
from sae_platform.errors import PlatformError, choices, nearest
from sae_platform.hookspecs import DISTRIBUTION, GROUP

DISABLE_VARIABLE = "SAE_PLATFORM_DISABLE"

HOOKS: dict[str, type[ComponentConfig]] = {
    "register_architectures": SAEConfig,
    "register_activation_sources": ActivationSourceConfig,
    "register_loggers": LoggerConfig,
    "register_exporters": ExporterConfig,
    "register_formats": WeightFormat,
}
RELEASES_HOOK = "register_releases"

ConfigT = TypeVar("ConfigT", bound=ComponentConfig)


@dataclass
class Plugin:
    """One entry point: where it came from, and what it offers or why it offers nothing."""

    point: EntryPoint
    status: Literal["found", "loaded", "failed", "disabled"] = "found"
    offers: list[type[ComponentConfig]] = field(default_factory=list)
    releases: list[Path] = field(default_factory=list)  # folders of release files
    error: BaseException | None = None

    @property
    def name(self) -> str:
        return self.point.name

    @property
    def distribution(self) -> str:
        return self.point.dist.name if self.point.dist else "unknown"

    @property
    def version(self) -> str:
        return self.point.dist.version if self.point.dist else "?"

    @property
    def reason(self) -> str | None:
        """Why it failed to load, if it did."""
        if self.error is None or isinstance(self.error, PlatformError):
            return str(self.error) if self.error else None
        return f"{type(self.error).__name__}: {self.error}"

    def __str__(self) -> str:
        return f"{self.name} ({self.distribution} {self.version})"


class PluginHost:
    """The plugins of this process. Listing them imports nothing; `load` imports them all."""

    def __init__(self) -> None:
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self.plugins = [Plugin(point) for point in sorted(entry_points(group=GROUP), key=lambda p: p.name)]
        disabled = {word.strip() for word in os.environ.get(DISABLE_VARIABLE, "").split(",")}
        for plugin in self.plugins:
            if {plugin.name, plugin.distribution} & disabled:
                plugin.status = "disabled"

    def load(self) -> PluginHost:
        """Import what is enabled. A plugin that fails is kept, with its error."""
        for plugin in self.plugins:
            if plugin.status == "found":
                try:
                    plugin.offers = list(self._load(plugin))
                    plugin.status = "loaded"
                except KeyboardInterrupt:
                    raise
                except BaseException as error:  # third-party code may raise anything, SystemExit too
                    self._manager.unregister(name=str(plugin))
                    plugin.status, plugin.error, plugin.releases = "failed", error, []
        return self

    def kinds(self, base: type[ConfigT]) -> dict[str, type[ConfigT]]:
        """The usable kinds of `base`. A kind two plugins claim is not usable."""
        return {kind: claims[0][1] for kind, claims in self._claims(base).items() if len(claims) == 1}

    def owner(self, config: type[ComponentConfig]) -> str | None:
        """The distribution whose plugin offers a class."""
        return next((plugin.distribution for plugin in self.plugins if config in plugin.offers), None)

    def contested(self) -> list[str]:
        """One sentence for every kind that more than one plugin claims."""
        return [
            _contest(base, kind, [plugin for plugin, _ in claims])
            for base in HOOKS.values()
            for kind, claims in self._claims(base).items()
            if len(claims) > 1
        ]

    def find(self, base: type[ConfigT], kind: str) -> type[ConfigT]:
        """The class that `kind` names, or a PlatformError saying why there is not exactly one."""
        claims = self._claims(base).get(kind, [])
        if len(claims) == 1:
            return claims[0][1]
        if claims:
            raise PlatformError(_contest(base, kind, [plugin for plugin, _ in claims]))
        usable = self.kinds(base)
        unknown = f"No {base.role} is called {kind!r}.{nearest(kind, usable)} Installed: {choices(usable)}."
        raise PlatformError("\n".join([unknown, *self.silent()]))

    def silent(self) -> list[str]:
        """A sentence for every plugin that offers nothing because it failed to load or is switched off."""
        failed = [each for each in self.plugins if each.status == "failed"]
        switched_off = [each for each in self.plugins if each.status == "disabled"]
        return [f"{each} is installed but failed to load: {each.reason}" for each in failed] + [
            f"{each} is switched off by {DISABLE_VARIABLE}." for each in switched_off
        ]

    def _load(self, plugin: Plugin) -> Iterator[type[ComponentConfig]]:
        _check_version(plugin)
        module = plugin.point.load()
        self._manager.register(module, name=str(plugin))
        for caller in self._manager.get_hookcallers(module) or []:
            if not caller.has_spec():
                raise PlatformError(f"There is no hook {caller.name!r}.{nearest(caller.name, [*HOOKS, RELEASES_HOOK])}")
            for implementation in caller.get_hookimpls():
                if implementation.plugin is module:
                    offers = implementation.function()
                    if caller.name == RELEASES_HOOK:
                        plugin.releases = _folders(offers)
                    else:
                        yield from _checked(caller.name, offers)

    def _claims(self, base: type[ConfigT]) -> dict[str, list[tuple[Plugin, type[ConfigT]]]]:
        claims: dict[str, list[tuple[Plugin, type[ConfigT]]]] = {}
        for plugin in self.plugins:
            for config in plugin.offers:
                if issubclass(config, base):
                    claims.setdefault(config.fixed_kind(), []).append((plugin, config))
        return claims


@cache
def installed_plugins() -> PluginHost:
    """The loaded plugins of this process."""
    return PluginHost().load()


def _contest(base: type[ComponentConfig], kind: str, owners: list[Plugin]) -> str:
    outsiders = [plugin for plugin in owners if plugin.distribution != DISTRIBUTION]
    return (
        f"{base.role.capitalize()} {kind!r} is offered by {' and '.join(map(str, owners))}. "
        f"Disable one, for example {DISABLE_VARIABLE}={(outsiders or owners)[-1].distribution}."
    )


def _checked(hook: str, offers: object) -> Iterator[type[ComponentConfig]]:
    base = HOOKS[hook]
    for config in offers if isinstance(offers, Iterable) else (offers,):
        if not (isinstance(config, type) and issubclass(config, base)):
            raise PlatformError(f"{hook} must return {base.__name__} classes, not {config!r}.")
        config.fixed_kind()
        yield config


def _folders(offers: object) -> list[Path]:
    folders = []
    for folder in offers if isinstance(offers, Iterable) else [offers]:
        if not isinstance(folder, Path) or not folder.is_dir():
            raise PlatformError(f"{RELEASES_HOOK} must return folders of release files, not {folder!r}.")
        folders.append(folder)
    return folders


def _check_version(plugin: Plugin) -> None:
    """Hold a plugin to the `sae-platform` range in its own dependencies."""
    installed = version(DISTRIBUTION)
    for line in (plugin.point.dist.requires if plugin.point.dist else None) or []:
        wanted = Requirement(line)
        if (
            canonicalize_name(wanted.name) == DISTRIBUTION
            and (wanted.marker is None or wanted.marker.evaluate())
            and not wanted.specifier.contains(installed, prereleases=True)
        ):
            raise PlatformError(f"It needs {line}, but {DISTRIBUTION} {installed} is installed.")
