"""The disk is full, forbidden, broken or gone: one sentence, nothing lost, the next run goes on."""

import errno
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from fakes import ColourEncoder
from media_folder import write_pictures

from perception_search import Collection, PerceptionSearchError, durable
from perception_search.errors import StorageError
from perception_search.verify import verify

WORDS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "your share of the disk is used up",
    errno.EFBIG: "files of this size are not allowed here",
    errno.EACCES: "it is not permitted",
    errno.EROFS: "the disk can only be read",
    errno.EIO: "the disk fails",
    errno.ENODEV: "its disk or its folder is gone",
}


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("media"), 12)


@pytest.fixture
def photos(tmp_path):
    return Collection.create(tmp_path / "photos.ps", encoder=ColourEncoder())


@pytest.mark.parametrize("number", WORDS)
def test_what_the_system_says_is_said_in_words(number):
    with pytest.raises(StorageError) as told, durable.writing(Path("/photos.ps/rows")):
        raise OSError(number, os.strerror(number))
    assert str(told.value).startswith(f"/photos.ps/rows could not be written: {WORDS[number]} (")
    assert told.value.errno == number
    assert str(told.value).count(". ") == 2


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_every_trouble_is_one_sentence_and_the_next_run_goes_on(photos, media, monkeypatch, number):
    """The disk fails at some write after the first commit."""
    acknowledged = []
    left = 30

    def fail(_what, _path):
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(number, os.strerror(number))

    def said(files):
        acknowledged.extend(file.path for file in files if file.outcome == "ingested")

    monkeypatch.setattr(durable, "on_operation", fail)
    with pytest.raises(StorageError) as told:
        photos.ingest(media, commit_rows=4, on_commit=said)
    monkeypatch.setattr(durable, "on_operation", None)
    sentence = str(told.value)
    assert WORDS[number] in sentence
    assert os.strerror(number) in sentence
    assert str(photos.path) in sentence
    assert "What was reported before is safe." in sentence
    assert "run it again" in sentence
    assert isinstance(told.value, OSError)
    assert isinstance(told.value, PerceptionSearchError)
    assert acknowledged
    live = {path for paths in photos.snapshot.live_paths.values() for path in paths}
    assert live >= set(acknowledged)
    assert photos.ingest(media).ingested == 12 - len(live)
    assert verify(photos.path) == []


def test_a_folder_that_is_gone_is_told(photos, media, tmp_path):
    away = tmp_path / "away.ps"

    def unplug(_files):
        if photos.path.exists():
            photos.path.rename(away)

    with pytest.raises(StorageError, match="its disk or its folder is gone"):
        photos.ingest(media, commit_rows=4, on_commit=unplug)
    away.rename(photos.path)
    again = Collection.open(photos.path, encoder=ColourEncoder())
    assert again.ingest(media).failed == []
    assert len(again.search("red", k=20)) == 12
    assert verify(photos.path) == []


CHILD = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
from perception_search import cli
from perception_search.own_encoder import OwnEncoder
from fakes import ColourEncoder
OwnEncoder.for_tower = lambda *_: ColourEncoder()
sys.argv = ["perception-search", "ingest", *sys.argv[1:], "--json"]
cli.main()
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="files have no limit here")
def test_a_real_limit_ends_the_command_in_a_sentence(photos, media):
    """No file may grow beyond 4,000 bytes: the rows of 12 pictures do."""
    command = [sys.executable, "-c", CHILD, str(photos.path), str(media)]
    folders = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(folders)},
    )
    assert done.returncode == 1, done.stderr
    [sentence] = done.stderr.strip().splitlines()
    assert sentence.startswith(str(photos.path))
    assert "files of this size are not allowed here" in sentence
    outcomes = [json.loads(line)["outcome"] for line in done.stdout.splitlines()]
    assert "ingested" not in outcomes, "nothing is acknowledged that is not stored"
    assert not list(photos.path.rglob(f"{durable.TEMPORARY_PREFIX}*"))
    assert photos.ingest(media).ingested == 12
    assert verify(photos.path) == []
