"""Files of every name that a file system allows: found once, told so that they can be read back.

PERCEPTION_SEARCH_FAULTS=long draws 10,000 names; PERCEPTION_SEARCH_SEED replays a run.
"""

import json
import os
import random
import shutil
import unicodedata
from pathlib import Path

import pytest
from fakes import ColourEncoder
from media_folder import write_pictures

from perception_search import Collection
from perception_search.verify import verify

LONG = os.environ.get("PERCEPTION_SEARCH_FAULTS") == "long"
SEED = int(os.environ.get("PERCEPTION_SEARCH_SEED", random.randrange(1 << 32)))
NUM_NAMES = 10_000 if LONG else 600
PIECES = [
    b"a", b"B", b"7", b" ", b"  ", b"\n", b"\r", b"\t", b"\x1b[31m", b"\x07", b"\x7f", b"'", b'"',
    b"\\", b"%", b"*", b"?", b"[", b"]", b"{", b"}", b"$(x)", b"`", b";", b"&", b"|", b"<", b">",
    b"#", b"~", b"-", b"--", b"=", b"@", b":", b",", b"..", b"\xff", b"\xc3", b"\x80",
    b"\xed\xa0\x80",
    "é".encode(), unicodedata.normalize("NFD", "é").encode(), "ﬁ".encode(), "日本".encode(),
    "🐕".encode(), "\u202e".encode(), "\u200d".encode(), "\ufeff".encode(), "\u2028".encode(),
    "İ".encode(), "ß".encode(), b"' OR 1=1 --", b"CON", b".jpg", b"%2e%2e",
]  # fmt: skip


def names(rng, count):
    """So many different names of one folder level or more, as bytes: none hidden, all pictures."""
    found = set()
    while len(found) < count:
        levels = []
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            level = b"n" + b"".join(rng.choices(PIECES, k=rng.choice((1, 2, 3, 8, 60))))
            levels.append(level[: rng.choice((40, 200, 240))])
        found.add(b"/".join(levels) + b".jpg")
    return sorted(found)


def deep(media):
    """A file at the end of a path of nearly 4,096 bytes."""
    path = os.fsencode(media)
    while len(path) + 211 + len(b"/end.jpg") < 4096:
        path += b"/" + b"d" * 210
    return path + b"/end.jpg"


@pytest.fixture
def media(tmp_path):
    """The folder, and the bytes of every path with what lies there."""
    rng = random.Random(SEED)
    print(f"PERCEPTION_SEARCH_SEED={SEED}")
    pictures = sorted(write_pictures(tmp_path / "whole", 40).rglob("*.jpg"))
    folder = tmp_path / "media"
    paths = [os.fsencode(folder) + b"/" + name for name in names(rng, NUM_NAMES)]
    found = {}
    for path in [*paths, deep(folder)]:
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120
            found[path] = rng.choice(pictures)
            shutil.copyfile(found[path], path)
        except (FileExistsError, NotADirectoryError):
            found.pop(path, None)  # one name is a folder and a file
    return folder, found


def live(collection):
    """Every path that can be found, with the hash of what lies there."""
    return {
        os.fsencode(path): content_hash
        for content_hash, paths in collection.snapshot.live_paths.items()
        for path in paths
    }


def test_every_name_is_found_once_and_read_back(media, tmp_path, run, monkeypatch):
    folder, files = media
    path = tmp_path / "photos.ps"
    photos = Collection.create(path, encoder=ColourEncoder())
    report = photos.ingest(folder)
    assert report.failed == []
    found = live(photos)
    assert found.keys() == files.keys(), f"seed {SEED}"
    of_picture = {picture: {found[p] for p, of in files.items() if of == picture} for picture in
                  set(files.values())}  # fmt: skip
    assert all(len(hashes) == 1 for hashes in of_picture.values()), f"seed {SEED}"
    assert len(photos.snapshot.rows) == len(of_picture)
    assert photos.ingest(folder).ingested == 0

    monkeypatch.setattr(
        "perception_search.own_encoder.load_encoder", lambda *_, **__: ColourEncoder()
    )
    code, out, err = run("search", path, "red", "-k", 100, "--json")
    assert code == 0, err
    told = [json.loads(line)["path"] for line in out.splitlines()]
    assert len(told) == len(of_picture)
    assert {found[os.fsencode(name)] for name in told} == set(found.values())
    code, out, err = run("search", path, "red", "-k", 100)
    assert code == 0, err
    assert len(out.splitlines()) == len(told), "no name breaks a line"
    assert "\x1b" not in out

    rng = random.Random(SEED)
    gone, removed = rng.sample(sorted(files), len(files) // 4), rng.sample(sorted(files), 20)
    for name in gone:
        os.unlink(name)  # noqa: PTH108
    photos.ingest(folder, allow_removals=True)
    for name in set(removed) - set(gone):
        photos.remove(Path(os.fsdecode(name)))
    left = files.keys() - set(gone) - set(removed)
    assert live(photos).keys() == left, f"seed {SEED}"
    photos.purge()
    assert live(photos).keys() == left
    assert verify(path) == []


def test_every_folder_is_a_filter_of_its_own(media, tmp_path):
    photos = Collection.create(tmp_path / "photos.ps", encoder=ColourEncoder())
    photos.ingest(media[0])
    folders = {}
    for content_hash, paths in photos.snapshot.live_paths.items():
        folders.setdefault(str(paths[0].parent), set()).add(content_hash)
    rng = random.Random(SEED)
    for name in rng.sample(sorted(folders), min(len(folders), 30)):
        try:
            name.encode()
        except UnicodeEncodeError:
            continue  # no text, so no text can ask for it
        quoted = name.replace("'", "''")
        items = photos.items(f"folder = '{quoted}'")
        assert set(items["content_hash"]) == folders[name], f"seed {SEED}: {name!r}"
