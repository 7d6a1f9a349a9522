"""A small disk that fills up, and a system that fails at any operation: the version before stays.

PERCEPTION_SEARCH_FAULTS=long tries every size, a page of 4 KiB apart.
"""

import contextlib
import errno
import os
import shutil
import subprocess
import sys

import pytest
from stores import item, make, row

from perception_search import durable
from perception_search.errors import StorageError
from perception_search.snapshot import Snapshot
from perception_search.verify import verify
from perception_search.writer import Writer

LONG = os.environ.get("PERCEPTION_SEARCH_FAULTS") == "long"
PAGE = 4096
DISK_PAGES = 128


@pytest.fixture
def disk(tmp_path):
    """A disk of 512 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    size = f"size={DISK_PAGES * PAGE}"
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("only root on Linux can make a small disk")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(place)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"no small disk can be made here: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def commit(folder, numbers):
    """One commit of these items, with what merging follows it."""
    with Writer(folder) as writer:
        for number in numbers:
            writer.add_item(item(number), [row(number)])
        writer.commit()
        writer.compact()


def one_sentence(error, folder):
    """Whether what is told is the one plain text of a StorageError, with the file in front."""
    told = str(error)
    return told.startswith(str(folder)) and "could not be written: " in told and "\n" not in told


def test_a_disk_filled_page_by_page_commits_or_keeps_the_version_before(disk):
    outcomes = {True: 0, False: 0}
    for free in range(0, 40, 1 if LONG else 5):
        folder = make(disk / "c.ps", 2)
        before = Snapshot.open(folder).manifest
        fill = disk / "fill"
        with fill.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(PAGE))
        os.truncate(fill, max(0, fill.stat().st_size // PAGE - free) * PAGE)
        told = None
        try:
            commit(folder, [2, 3])
        except StorageError as error:
            told = error
        done = told is None
        if told is not None:
            assert told.errno == errno.ENOSPC
            assert one_sentence(told, folder), str(told)
        after = Snapshot.open(folder)
        count = len(after.rows)
        assert count in ((4,) if done else (2, 4)), "all of a commit or nothing"
        assert done or count == 4 or after.manifest == before or after.version > before.version
        fill.unlink()
        if count == 2:
            commit(folder, [2, 3])
        assert Snapshot.open(folder).rows.content_hash.to_pylist() == [
            f"{number:064x}" for number in range(4)
        ]
        with Writer(folder):
            pass
        assert verify(folder) == []
        outcomes[done] += 1
        shutil.rmtree(folder)
    assert outcomes[True], "the most room is enough"
    assert outcomes[False], "the least is not"
    print(f"{outcomes[False]} sizes too small, {outcomes[True]} large enough, 0 corrupt")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_failure_at_every_durable_operation_is_told_and_nothing_is_lost(
    tmp_path, monkeypatch, number
):
    tried = 0
    last = 0 if number == errno.ENOSPC else 1
    while True:
        folder = make(tmp_path / f"{last}.ps", 2)
        left = last

        def fail(_what, _path):
            nonlocal left
            left -= 1
            if left < 0:
                raise OSError(number, os.strerror(number))

        monkeypatch.setattr(durable, "on_operation", fail)
        told = None
        try:
            commit(folder, [2, 3])
        except StorageError as error:
            told = error
        monkeypatch.setattr(durable, "on_operation", None)
        if told is not None:
            assert told.errno == number
            assert one_sentence(told, folder), str(told)
        found = Snapshot.open(folder).rows.content_hash.to_pylist()
        assert len(found) in ((2, 4) if told else (4,))
        if len(found) == 2:
            commit(folder, [2, 3])
        with Writer(folder):
            pass
        hashes = Snapshot.open(folder).rows.content_hash.to_pylist()
        assert hashes == [f"{n:064x}" for n in range(4)]
        assert verify(folder) == []
        shutil.rmtree(folder)
        if told is None:
            break
        tried += 1
        last += 1 if LONG else 4  # the two numbers take turns
    assert last >= 20, "a commit has at least that many operations"
    print(f"{os.strerror(number)}: told at each of {tried} operations, 0 lost")
