"""Files of a repository through the hub's own client: what is said, what is refused, what is held to its digest."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hub_server import Hub
from sae_platform import PlatformError
from sae_platform.hub import Absent, Busy, fetch, listed

REPO = "user/saes"
CONFIG, WEIGHTS = "a/cfg.json", "a/weights.bin"
FILES = {CONFIG: True, WEIGHTS: True, "a/sparsity.bin": False}
BYTES = bytes(range(256)) * 600
SHA256 = {WEIGHTS: hashlib.sha256(BYTES).hexdigest(), "b/weights.bin": "0" * 64}


@pytest.fixture(autouse=True)
def _files(hub: Hub) -> None:
    hub.repositories[REPO] = {CONFIG: b"{}", WEIGHTS: BYTES}


def test_what_is_downloaded_is_said_and_what_is_cached_is_not(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    fetch(REPO, FILES)
    assert "Downloading 2 files, 154 kB, of user/saes\n" in capsys.readouterr().err
    hub.repositories[REPO]["b"] = b"b"
    fetch(REPO, {**FILES, "b": True})
    assert "Downloading 1 file, 1 bytes, of user/saes\n" in capsys.readouterr().err
    fetch(REPO, FILES)
    assert "Downloading" not in capsys.readouterr().err


def test_a_commit_in_the_cache_is_not_asked_for_nor_are_the_files_that_it_lacks(hub: Hub) -> None:
    fetch(REPO, FILES, hub.commit(REPO))
    hub.asked.clear()
    root = fetch(REPO, FILES, hub.commit(REPO), sha256=SHA256)
    assert (root / WEIGHTS).read_bytes() == BYTES
    assert hub.asked == []


def test_a_transfer_that_is_cut_goes_on_where_it_was(hub: Hub) -> None:
    hub.repositories[REPO][WEIGHTS] = large = BYTES * 160  # 25 MB; the client writes 10 MiB at a time
    hub.cut.add(WEIGHTS)
    root = fetch(REPO, FILES, sha256={WEIGHTS: hashlib.sha256(large).hexdigest()})
    assert (root / WEIGHTS).read_bytes() == large
    assert [line.split()[-1] for line in hub.asked if line.endswith("-")] == [f"bytes={10 << 20}-"]


def test_wrong_bytes_of_the_right_size_are_refused_and_not_kept(hub: Hub) -> None:
    hub.spoiled.add(WEIGHTS)
    for _ in range(2):
        with pytest.raises(PlatformError) as error:
            fetch(REPO, FILES)
        assert f"{WEIGHTS} of {REPO} arrived damaged" in str(error.value)
        assert hashlib.sha256(BYTES[::-1]).hexdigest() in str(error.value)
        assert SHA256[WEIGHTS] in str(error.value)
    hub.spoiled.clear()
    assert (fetch(REPO, FILES) / WEIGHTS).read_bytes() == BYTES


def test_a_file_with_another_digest_than_the_release_says_is_not_used(hub: Hub) -> None:
    hub.repositories[REPO][WEIGHTS] = b"moved on"
    root = fetch(REPO, FILES)
    for _ in range(2):
        with pytest.raises(PlatformError) as error:
            fetch(REPO, FILES, sha256=SHA256)
        message = str(error.value)
        assert f"{WEIGHTS} of {REPO} is not the file that was asked for" in message
        assert f"its sha256 is {hashlib.sha256(b'moved on').hexdigest()}, and should be {SHA256[WEIGHTS]}" in message
        assert "force_download=True" in message
        assert "registry pin" in message
    moved = {WEIGHTS: hashlib.sha256(b"moved on").hexdigest()}
    (root / WEIGHTS).write_bytes(b"in cache")  # damaged there
    with pytest.raises(PlatformError, match="is not the file that was asked for"):
        fetch(REPO, FILES, hub.commit(REPO), sha256=moved)
    fetch(REPO, FILES, hub.commit(REPO), force_download=True, sha256=moved)


def test_a_hub_that_stumbles_is_asked_again(hub: Hub) -> None:
    hub.stumbles[CONFIG] = [429, 500]
    assert (fetch(REPO, FILES) / CONFIG).read_bytes() == b"{}"


def test_a_hub_that_goes_on_refusing_is_named(hub: Hub) -> None:
    hub.repositories |= {"user/busy": {}, "user/broken": {}}
    hub.refusals |= {"user/busy": (429, ""), "user/broken": (500, "")}

    def refusal(repo_id: str) -> PlatformError:
        with pytest.raises(PlatformError) as error:
            fetch(repo_id, FILES)
        return error.value

    with ThreadPoolExecutor(2) as pool:  # the client waits between its attempts
        busy, broken = pool.map(refusal, ["user/busy", "user/broken"])
    assert isinstance(busy, Busy)
    assert str(busy).startswith(f"The hub refused {CONFIG} of user/busy: too many requests (429).")
    assert str(broken).startswith(f"The hub failed (500) when asked for {CONFIG} of user/broken.")


@pytest.mark.parametrize(
    ("status", "message"), [(429, "too many requests (429)"), (500, "The hub failed (500)"), (403, "not let you read")]
)
def test_a_refusal_of_a_new_download_and_of_a_listing_is_named(hub: Hub, status: int, message: str) -> None:
    fetch(REPO, FILES)
    hub.refusals[REPO] = (status, "")
    for ask in (lambda: fetch(REPO, FILES, force_download=True), lambda: listed(REPO)):
        with pytest.raises(PlatformError) as error:
            ask()
        assert message in str(error.value)


def test_a_failure_in_the_middle_is_named(hub: Hub) -> None:
    hub.stumbles[WEIGHTS] = [200, 200, 500]
    with pytest.raises(PlatformError, match=r"The hub failed \(500\) when asked for a/weights.bin of user/saes"):
        fetch(REPO, FILES)


def test_a_hub_that_cannot_be_reached_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(PlatformError, match="Could not get the list of files of user/saes: "):
        listed(REPO)


def test_a_listing_says_the_commit_the_files_and_the_digests_that_the_hub_knows(hub: Hub) -> None:
    assert listed(REPO, digests=True) == (hub.commit(REPO), {CONFIG: None, WEIGHTS: SHA256[WEIGHTS]})
    assert len(hub.asked) == 1
    hub.repositories["datasets/user/set"] = {"a.toml": b""}
    assert listed("datasets/user/set").files == {"a.toml": None}
    assert (fetch("datasets/user/set", {"a.toml": True}) / "a.toml").read_bytes() == b""
    with pytest.raises(Absent, match="no repository 'user/set'"):
        listed("user/set")
    with pytest.raises(Absent, match="no revision 'v9'"):
        listed(REPO, "v9")


def test_a_folder_of_this_machine_is_a_repository(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "saes/a").mkdir(parents=True)
    (tmp_path / "saes" / WEIGHTS).write_bytes(BYTES)
    here = f"local:{tmp_path}/saes"
    assert listed(here) == (None, {WEIGHTS: None})
    assert fetch(here, {WEIGHTS: True, CONFIG: False}, sha256=SHA256) == tmp_path / "saes"
    with pytest.raises(Absent, match="saes has no file 'b/weights.bin'. Folders that have one: a"):
        fetch(here, {"b/weights.bin": True})
    (tmp_path / "saes" / WEIGHTS).write_bytes(b"other")
    with pytest.raises(PlatformError, match="is not the file that was asked for"):
        fetch(here, {WEIGHTS: True}, sha256=SHA256)
    with pytest.raises(Absent, match="nowhere does not exist"):
        listed(f"local:{tmp_path}/nowhere")
    assert hub.asked == []
