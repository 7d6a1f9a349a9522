"""Files that are whole or absent, whatever happens; knows nothing of what they hold.

A file is written under a temporary name, synced, renamed, and its folder synced: what can be seen
under a final name was complete before it could be seen. `on_operation`, set by tests, is called
before every operation that power loss or a kill can fall between.
"""

import contextlib
import hashlib
import os
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from perception_search.errors import StorageError

TEMPORARY_PREFIX = ".tmp-"

on_operation: Callable[[str, Path], None] | None = None


def _announce(operation: str, path: Path) -> None:
    if on_operation is not None:
        on_operation(operation, path)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """What fails in here failed while `path` was written, and says so as a StorageError."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(error.errno, error.strerror or str(error), str(path)) from error


def _sync(descriptor: int) -> None:
    if sys.platform == "darwin":  # fsync there stops at the drive's own cache
        import fcntl

        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    else:
        os.fsync(descriptor)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` survive power loss."""
    _announce("sync_folder", folder)
    if os.name == "nt":  # a folder cannot be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)


def make_folders(path: Path) -> None:
    """Make the folder `path` and those above it that are missing; each one's name is safe then."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


class Pending:
    """A file under a temporary name; `publish` gives it its final one."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self.file = file

    def sha256(self) -> str:
        """SHA-256 of what has been written so far, in hex."""
        self.file.flush()
        return sha256_of(self.path)

    def publish(self, final: Path) -> None:
        """Make the content safe on disk, then visible as `final`, then the name safe too."""
        _announce("sync", self.path)
        self.file.flush()
        _sync(self.file.fileno())
        self.file.close()
        _announce("rename", final)
        self.path.replace(final)
        sync_folder(final.parent)


@contextlib.contextmanager
def pending(folder: Path) -> Iterator[Pending]:
    """A new temporary file in `folder`; it is gone afterwards unless it was published.

    Raises:
        StorageError: the disk is full, or the folder is gone or may not be written.
    """
    path = folder / f"{TEMPORARY_PREFIX}{os.getpid()}-{uuid.uuid4().hex[:12]}"
    try:
        with writing(folder):
            _announce("create", path)
            with path.open("wb") as file:
                yield Pending(path, file)
    finally:
        with contextlib.suppress(OSError):  # the disk may be gone; the next writer sweeps
            path.unlink(missing_ok=True)


def write(path: Path, content: bytes) -> None:
    """Make `path` hold exactly `content`."""
    with pending(path.parent) as new:
        new.file.write(content)
        new.publish(path)


def remove(path: Path) -> None:
    """Delete `path` if it is there."""
    with writing(path.parent):
        _announce("remove", path)
        path.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Delete what interrupted writes left in `folder`; only the one writer may call this."""
    for path in folder.glob(f"{TEMPORARY_PREFIX}*"):
        if path.is_dir() and not path.is_symlink():  # a collection that was being made
            with writing(folder):
                _announce("remove", path)
                shutil.rmtree(path)
        else:
            remove(path)


def sha256_of(path: Path) -> str:
    """SHA-256 of the whole file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
