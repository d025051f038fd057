"""`sae-platform registry check, pin, add, pull`: what keeps release files true."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import click

from sae_platform import registry
from sae_platform.cli.options import overlays_option
from sae_platform.errors import PlatformError
from sae_platform.releases import Release


@click.command
@click.argument("releases", nargs=-1)
@click.option("--online", is_flag=True, help="Ask the hub whether the files are still there.")
@click.option("--limit", type=click.IntRange(min=1), help="With --online: ask for so many repositories at most.")
@click.option(
    "--max-age", default=7.0, show_default=True, type=click.FloatRange(min=0), metavar="DAYS",
    help="With --online: what was asked in the last DAYS is not asked again.",
)  # fmt: skip
@overlays_option
@click.pass_context
def check(
    ctx: click.Context,
    releases: Sequence[str],
    online: bool,
    limit: int | None,
    max_age: float,
    overlays: Sequence[Path],
) -> None:
    """Read every release file, or those of RELEASES, and say what is wrong with them.

    With --online, also ask the hub whether the files of their SAEs are still there, by one listing for each repository.
    What is found is kept, so that a check that was cut short goes on with the next call. The exit code is 1 when a
    release file is not sound or anything is missing.
    """
    sound, problems = [], []
    for name in releases or registry.release_names(overlays):
        try:
            sound.append(registry.find_release(name, overlays, everywhere=True))
        except PlatformError as error:
            problems.append(str(error))
    for problem in problems:
        click.echo(problem, err=True)
    saes = sum(len(release.saes) for release in sound)
    click.echo(f"{len(sound):,} releases with {saes:,} SAEs are sound; {len(problems)} are not.")
    missing = online and _is_missing(sound, limit, timedelta(days=max_age))
    if problems or missing:
        ctx.exit(1)


@click.command
@click.argument("release")
@click.option("--revision", help="A branch, a tag or a commit; the repository's own branch when left out.")
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="Write this file, not the one that the release has."
)
@overlays_option
def pin(release: str, revision: str | None, out: Path | None, overlays: Sequence[Path]) -> None:
    """Write the commit that the repository of RELEASE is at, and the sha256 of its files, into its release file.

    What is loaded from the release is then of that commit and has those digests, or is refused.
    """
    from sae_platform.upkeep import pinning

    found = registry.find_release(release, overlays)
    pins = pinning.pins(found, revision)
    file = pinning.write(found, pins, out)
    was = f" (it was {found.revision})" if found.revision not in (None, pins.revision) else ""
    click.echo(f"{release}: {len(pins.sha256)} files at {pins.revision or found.repo_id}{was}\n{file}")


@click.command
@click.argument("source")
@click.option("--name", help="Of the release; that of the repository when left out.")
@click.option("--to", "folder", type=click.Path(path_type=Path, file_okay=False), help="Write into this folder.")
@click.option("--format", "kind", help="Only SAEs of this format, where there are several.")
@click.option("--model", help="Whose activations they read, where the files do not say or name several.")
@overlays_option
def add(
    source: str, name: str | None, folder: Path | None, kind: str | None, model: str | None, overlays: Sequence[Path]
) -> None:
    """Write a release file for the SAEs found in SOURCE: a folder, or user/repository on the hub.

    It goes into the user's own registry folder. SAEs are found by the files of the installed formats. Formats that have
    one file for each SAE are not looked for: any file looks like theirs. Layer, site and width are written where a
    cfg.json says them.
    """
    from sae_platform.upkeep import discovery

    repo_id = discovery.repository_of(source)
    name = name or repo_id.rpartition("/")[2]
    folder = folder or registry.of_user()
    if not registry.is_name(name):
        raise PlatformError(f"{name!r} cannot be the name of a release. Give another with --name.")
    there = [folder / f"{name}.toml"] if (folder / f"{name}.toml").exists() else []
    for file in [*there, *registry.release_files(name, overlays, everywhere=True)]:
        raise PlatformError(f"There is a release {name!r} already, in {file}. Give another name with --name.")
    release = discovery.add(name, discovery.described(repo_id, kind, model), folder)
    click.echo(f"{release.file}\n{len(release.saes):,} SAEs of {release.model}, {release.format}")
    looked_in = folder.resolve() in [each.resolve() for each in registry.folders()]
    click.echo(f"Next: sae-platform registry show {name}{'' if looked_in else f' --registry {folder}'}")


@click.command
@click.argument("source")
@click.option("--to", "folder", type=click.Path(path_type=Path, file_okay=False), help="Replace this folder.")
def pull(source: str, folder: Path | None) -> None:
    """Copy the release files of SOURCE, or copy them again: all of them when all are sound, or none.

    SOURCE is the address of a .tar.gz or .zip, or user/repository or datasets/user/repository on the hub. Its release
    files lie in a folder `registry` or at its top.
    """
    from sae_platform.upkeep import pulling

    target = folder or pulling.default_folder(source)
    releases = pulling.pull(source, target)
    saes = sum(len(release.saes) for release in releases)
    click.echo(f"{len(releases):,} releases with {saes:,} SAEs in {target}")
    if target.resolve() not in [each.resolve() for each in registry.folders()]:
        click.echo(f"They are looked in with --registry {target} or {registry.VARIABLE}={target}.")


def _is_missing(releases: Sequence[Release], limit: int | None, max_age: timedelta) -> bool:
    """Print what the hub does not have any more, and return whether there is anything."""
    from sae_platform.upkeep import checking

    findings = []
    for finding in checking.check(releases, checking.default_store(), max_age, limit):
        findings.append(finding)
        for sae_id, place in finding.missing:
            click.echo(f"{finding.release}  {sae_id}  {place}")
        if finding.gone:
            click.echo(f"{finding.release}  {finding.gone}")
        if finding.problem:
            click.echo(f"{finding.release}: {finding.problem}", err=True)
    files = sum(len(finding.missing) for finding in findings)
    gone = sum(bool(finding.gone) for finding in findings)
    silent, left = sum(bool(finding.problem) for finding in findings), len(releases) - len(findings)
    click.echo(
        f"{len(findings) - silent:,} of {len(releases):,} releases are compared with the hub: "
        f"{files:,} files are missing, {gone} releases are gone."
    )
    if silent or left:
        click.echo(f"The hub did not answer for {silent}, and {left} are left for another call.", err=True)
    return bool(files or gone)
