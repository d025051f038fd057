from __future__ import annotations

import sys

import pytest

from sae_platform import ActivationSourceConfig, PlatformError, SAEConfig
from sae_platform.plugins import Plugin, PluginHost

ARCHITECTURE = """
    from typing import Literal
    from sae_platform import SAEConfig, hookimpl
    class Config(SAEConfig):
        architecture: Literal["{kind}"] = "{kind}"
    @hookimpl
    def {hook}({arguments}):
        return {offers}
"""

SOURCE = """
    from sae_platform import ActivationSourceConfig
    class Source(ActivationSourceConfig):
        kind: Literal["mine"] = "mine"
    @hookimpl
    def register_activation_sources():
        return [Source]
"""


RELEASES = """
    from pathlib import Path
    from sae_platform import hookimpl
    @hookimpl
    def register_releases():
        return {offers}
"""


def architecture(kind: str, hook: str = "register_architectures", offers: str = "[Config]", arguments: str = "") -> str:
    return ARCHITECTURE.format(kind=kind, hook=hook, offers=offers, arguments=arguments)


def loaded(name: str) -> Plugin:
    (plugin,) = [plugin for plugin in PluginHost().load().plugins if plugin.name == name]
    return plugin


def refusal(name: str) -> str:
    plugin = loaded(name)
    assert plugin.status == "failed"
    assert plugin.offers == []
    return plugin.reason or ""


def test_an_installed_plugin_is_found(install):
    install("mine", architecture("mine"))
    host = PluginHost().load()
    assert host.find(SAEConfig, "mine") is host.kinds(SAEConfig)["mine"]
    assert str(loaded("mine")) == "mine (sae-platform-mine 1.0)"


def test_listing_imports_no_plugin(install):
    install("mine", architecture("mine"))
    host = PluginHost()
    assert {plugin.status for plugin in host.plugins} == {"found"}
    assert "sae_platform_mine" not in sys.modules
    host.load()
    assert "sae_platform_mine" in sys.modules


def test_a_single_class_counts_as_a_list_of_one(install):
    install("mine", architecture("mine", offers="Config"))
    assert "mine" in PluginHost().load().kinds(SAEConfig)


def test_one_plugin_may_offer_parts_for_several_roles(install):
    install("mine", architecture("mine") + SOURCE)
    host = PluginHost().load()
    assert host.find(SAEConfig, "mine") is not host.find(ActivationSourceConfig, "mine")
    assert host.contested() == []


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import no_such_module", "No module named 'no_such_module'"),
        ("raise RuntimeError('not today')", "RuntimeError: not today"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        (architecture("broken", offers="1 / 0"), "division by zero"),
        (architecture("broken", offers="None"), "must return SAEConfig classes, not None"),
        (architecture("broken", offers="'broken'"), "must return SAEConfig classes, not 'b'"),
        (architecture("broken", offers="[Config(d_sae=8)]"), "must return SAEConfig classes, not Config"),
        (architecture("broken", hook="register_loggers"), "register_loggers must return LoggerConfig classes"),
        (architecture("broken", offers="[SAEConfig]"), "needs a field architecture"),
        (architecture("broken", hook="register_architecture"), "Did you mean 'register_architectures'"),
        (architecture("broken", arguments="host"), "host"),
        (RELEASES.format(offers="[Path('/nowhere')]"), "return folders of release files, not PosixPath('/nowhere')"),
        (RELEASES.format(offers="'/tmp'"), "must return folders of release files, not '/'"),
        (RELEASES.format(offers="None"), "must return folders of release files, not None"),
    ],
    ids=[
        "missing module",
        "raises at import",
        "exits at import",
        "raises in the hook",
        "nothing",
        "a word",
        "an instance",
        "another role",
        "no kind",
        "misspelt hook",
        "unknown argument",
        "no such folder",
        "a text",
        "no folder",
    ],
)
def test_a_broken_plugin_hurts_only_itself_and_says_why(install, source, reason):
    install("broken", source)
    install("mine", architecture("mine"))
    assert reason in refusal("broken")
    host = PluginHost().load()
    assert host.find(SAEConfig, "mine")
    with pytest.raises(PlatformError) as missing:
        host.find(SAEConfig, "broken")
    assert "broken (sae-platform-broken 1.0) is installed but failed to load: " in str(missing.value)
    assert reason in str(missing.value)


def test_a_plugin_for_another_version_is_refused_before_it_is_imported(install):
    install("old", architecture("old"), "sae-platform>=9")
    assert "needs sae-platform>=9, but sae-platform 0.1.0 is installed" in refusal("old")
    assert "sae_platform_old" not in sys.modules


def test_a_version_range_under_a_marker_that_does_not_hold_is_ignored(install):
    install("mine", architecture("mine"), "sae-platform>=9; python_version < '3'")
    assert loaded("mine").status == "loaded"


def test_an_unknown_kind_is_answered_with_what_exists_and_the_nearest_name(install):
    install("mine", architecture("mine"))
    with pytest.raises(
        PlatformError, match=r"No architecture is called 'mime'. Did you mean 'mine'\? Installed: .*mine"
    ):
        PluginHost().load().find(SAEConfig, "mime")


def test_a_contested_kind_is_refused_naming_both_owners_and_the_fix(install):
    install("first", architecture("toy"))
    install("second", architecture("toy"))
    host = PluginHost().load()
    assert "toy" not in host.kinds(SAEConfig)
    sentence = (
        "Architecture 'toy' is offered by first (sae-platform-first 1.0) and second (sae-platform-second 1.0). "
        "Disable one, for example SAE_PLATFORM_DISABLE=sae-platform-second."
    )
    assert host.contested() == [sentence]
    with pytest.raises(PlatformError) as refused:
        host.find(SAEConfig, "toy")
    assert str(refused.value) == sentence


@pytest.mark.parametrize("word", ["second", "sae-platform-second", "nothing, second"])
def test_disabling_by_entry_name_or_distribution_settles_a_contest(install, monkeypatch, word):
    install("first", architecture("toy"))
    install("second", architecture("toy"))
    monkeypatch.setenv("SAE_PLATFORM_DISABLE", word)
    host = PluginHost().load()
    assert host.contested() == []
    assert host.find(SAEConfig, "toy").__module__ == "sae_platform_first"
    assert "sae_platform_second" not in sys.modules


def test_a_disabled_plugin_is_named_when_a_kind_is_missing(install, monkeypatch):
    install("mine", architecture("mine"))
    monkeypatch.setenv("SAE_PLATFORM_DISABLE", "mine")
    with pytest.raises(PlatformError, match=r"mine \(sae-platform-mine 1.0\) is switched off by SAE_PLATFORM_DISABLE"):
        PluginHost().load().find(SAEConfig, "mine")
