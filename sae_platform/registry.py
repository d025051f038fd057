"""The registry of released SAEs: find one by release and sae_id, or search all of them, without loading any."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sae_platform.errors import PlatformError, nearest
from sae_platform.parsed import ParsedFiles
from sae_platform.releases import Release, ReleasedSAE, read_release

if TYPE_CHECKING:
    from sae_platform.plugins import PluginHost

VARIABLE = "SAE_PLATFORM_REGISTRY"


def folders(overlays: Sequence[str | Path] = ()) -> list[Path]:
    """Where release files are looked for: folders given here, those of $SAE_PLATFORM_REGISTRY, the user's, our own."""
    given = [Path(folder) for folder in (*overlays, *filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)))]
    for folder in given:
        if not folder.is_dir():
            raise PlatformError(f"The registry folder {folder} does not exist.")
    return [*given, of_user(), *(each for each in sorted(pulled().glob("[!.]*")) if each.is_dir()), packaged()]


def of_user() -> Path:
    """The folder of the user's own release files."""
    return _configuration() / "registry"


def pulled() -> Path:
    """The folder that holds a folder of release files for each place that they were pulled from."""
    return _configuration() / "pulled"


def packaged() -> Path:
    """The folder that comes with the package, or with its source tree."""
    inside = Path(__file__).parent / "_registry"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "registry"


def offered() -> list[Path]:
    """The folders of release files that plugins offer. This loads the plugins, where any are not our own."""
    from importlib.metadata import entry_points

    from sae_platform.hookspecs import DISTRIBUTION, GROUP

    if all(point.dist and point.dist.name == DISTRIBUTION for point in entry_points(group=GROUP)):
        return []
    return [folder for plugin in _plugins().plugins for folder in plugin.releases]


def release_names(overlays: Sequence[str | Path] = ()) -> list[str]:
    """The names of all releases, sorted."""
    everywhere = [*folders(overlays), *offered()]
    return sorted({file.stem for folder in everywhere for file in folder.glob("*.toml")})


def release_files(name: str, overlays: Sequence[str | Path] = (), everywhere: bool = False) -> list[Path]:
    """The files that describe a release. Plugins are asked where no folder has one, or to look `everywhere`."""
    if not is_name(name):
        return []
    found = [file for folder in folders(overlays) if (file := folder / f"{name}.toml").is_file()]
    if everywhere or not found:
        found += [file for folder in offered() if (file := folder / f"{name}.toml").is_file()]
    return list({file.resolve(): file for file in found}.values())


def find_release(name: str, overlays: Sequence[str | Path] = (), everywhere: bool = False) -> Release:
    """A release by its name. PlatformError naming the nearest when there is none, and both files when there are two.

    One that a folder has is found without loading plugins, unless `everywhere` asks them for another of its name.
    """
    files = release_files(name, overlays, everywhere)
    if files:
        return read_release(_only(name, files))
    unknown = (
        f"No release is called {name!r}.{nearest(name, release_names(overlays))} "
        "`sae-platform registry list` lists all, `sae-platform registry search WORDS` searches them."
    )
    raise PlatformError("\n".join([unknown, *_plugins().silent()]))


def lookup(release: str, sae_id: str, overlays: Sequence[str | Path] = ()) -> ReleasedSAE:
    """An SAE by its release and id. PlatformError naming the nearest ids when there is none of this name."""
    found = find_release(release, overlays)
    if sae_id in found.saes:
        return found.saes[sae_id]
    first = next(iter(found.saes))
    raise PlatformError(
        f"The release {release!r} has no SAE {sae_id!r}.{nearest(sae_id, found.saes)} "
        f"It has {len(found.saes):,}, such as {first!r}; `sae-platform registry show {release}` lists them."
    )


def every_release(overlays: Sequence[str | Path] = ()) -> Iterator[Release]:
    """All releases, by name. PlatformError naming both files where there are two of one name."""
    files: dict[str, dict[Path, Path]] = {}
    for folder in [*folders(overlays), *offered()]:
        for file in folder.glob("*.toml"):
            files.setdefault(file.stem, {})[file.resolve()] = file
    parsed = ParsedFiles()
    for name in sorted(files):
        yield parsed.release(_only(name, list(files[name].values())))
    parsed.save()


def search(
    text: str = "",
    *,
    model: str | None = None,
    layer: int | None = None,
    site: str | None = None,
    width: int | None = None,
    min_l0: float | None = None,
    max_l0: float | None = None,
    overlays: Sequence[str | Path] = (),
) -> list[ReleasedSAE]:
    """The SAEs whose names hold every word of `text`, and whose facts are the ones asked for.

    Words are looked for in release, id, model, repository, site and width; "layer 12" in the text means that layer. An
    SAE of which a fact is not known is not found by it.
    """
    text, in_text = _without_layer(text.lower())
    layer = in_text if layer is None else layer
    words = text.split()
    found = []
    for release in every_release(overlays):
        for sae in release.saes.values():
            if (
                (layer is None or sae.layer == layer)
                and (site is None or sae.site == site)
                and (width is None or sae.width == width)
                and (model is None or model.lower() in sae.model.lower())
                and (min_l0 is None or (sae.l0 is not None and sae.l0 >= min_l0))
                and (max_l0 is None or (sae.l0 is not None and sae.l0 <= max_l0))
            ):
                names = _names(sae) if words else ""
                if all(word in names for word in words):
                    found.append(sae)
    return found


def parse_width(text: str) -> int:
    """`16k`, `1m` or `16384` as a number of features. PlatformError for anything else."""
    match = re.fullmatch(r"([1-9]\d*)([km]?)", text.lower())
    if not match:
        raise PlatformError(f"The width {text!r} is not a number of features, such as 16384, 16k or 1m.")
    number = int(match[1]) * {"": 1, "k": 1000, "m": 1_000_000}[match[2]]
    power = 1 << round(math.log2(number))
    if match[2] and 0.95 < power / number < 1.05:  # 16k and 131k are powers of two
        return power
    return number * 1024 // 1000 if match[2] else number


def width_label(width: int) -> str:
    """A number of features as people write it: 16k, 131k, 1m."""
    if width % 2**20 == 0:
        return f"{width // 2**20}m"
    return f"{width // 1000}k" if width >= 1000 else str(width)


def is_name(name: str) -> bool:
    """Whether it can be the name of a release: of a file, and nothing else."""
    return re.fullmatch(r"[\w.+-]+", name) is not None and not name.startswith(".")


def _names(sae: ReleasedSAE) -> str:
    width = "" if sae.width is None else width_label(sae.width)
    return f"{sae.release} {sae.sae_id} {sae.model} {sae.repo_id} {sae.site} {width} {sae.neuronpedia_id or ''}".lower()


def _without_layer(text: str) -> tuple[str, int | None]:
    match = re.search(r"\blayer[ _=]?(\d+)\b", text)
    return (text[: match.start()] + text[match.end() :], int(match[1])) if match else (text, None)


def _only(name: str, files: Sequence[Path]) -> Path:
    if len(files) > 1:
        raise PlatformError(
            f"The release {name!r} is described twice, in {files[0]} and in {files[1]}. Rename or remove one of them."
        )
    return files[0]


def _configuration() -> Path:
    import platformdirs

    return Path(platformdirs.user_config_dir("sae-platform"))


def _plugins() -> PluginHost:
    from sae_platform.plugins import installed_plugins  # costs as much as reading a hundred releases

    return installed_plugins()
