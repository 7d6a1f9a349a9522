"""Duplicates: copies and near ones are found as a slow, obvious comparison finds them."""

import json
import shutil

import numpy as np
import pytest
from fakes import ColourEncoder
from media_folder import picture, write_pictures, write_video
from PIL import Image
from stores import add_pictures, make, remove_pictures, unit

from perception_search import Collection, duplicates
from perception_search.duplicates import duplicates as find
from perception_search.snapshot import Snapshot


def slowly(folder, near):
    """Groups of two files or more as sets of names, by comparing every two in float64."""
    snapshot = Snapshot.open(folder)
    positions = np.flatnonzero(snapshot.item_of_row >= 0)
    vectors = snapshot.rows.embeddings(positions).astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    hashes = np.array(snapshot.rows.content_hash.to_pylist())[positions]
    owner = list(range(len(vectors)))
    for i in range(len(vectors)):
        for j in np.flatnonzero(vectors[i] @ vectors.T >= 1 - near):
            old, new = owner[j], owner[i]
            owner = [new if one == old else one for one in owner]
    groups = {}
    for one, content_hash in zip(owner, hashes, strict=True):
        groups.setdefault(one, set()).update(map(str, snapshot.live_paths[content_hash]))
    return sorted(sorted(files) for files in groups.values() if len(files) > 1)


def found(folder, near):
    groups = find(Snapshot.open(folder), near=near)
    return sorted(sorted(str(file.path) for file in group.files) for group in groups)


@pytest.mark.parametrize("at_once", [61, 4096])
def test_groups_are_those_of_comparing_every_two(tmp_path, monkeypatch, at_once):
    monkeypatch.setattr(duplicates, "_ROWS_AT_ONCE", at_once)
    monkeypatch.setattr(duplicates, "_COLUMNS_AT_ONCE", 2 * at_once)
    monkeypatch.setattr(duplicates, "_PAIRS_AT_ONCE", 3)
    rng = np.random.default_rng(5)
    folder = make(tmp_path / "c.ps", 0)
    vectors = []
    for number in range(60):  # chains of up to five, each step a little further
        vector = unit(number)
        for _ in range(rng.integers(1, 6)):
            vectors.append(vector)
            vector = vector + rng.normal(0, 0.08, len(vector)).astype(np.float32)
            vector /= np.linalg.norm(vector)
    add_pictures(folder, vectors, 0)
    remove_pictures(folder, [1, 2, 30])
    sizes = set()
    for near in (0.001, 0.02, 0.05, 0.1):
        assert found(folder, near) == slowly(folder, near)
        sizes.add(len(found(folder, near)))
    assert len(sizes) == 4, "each distance gives other groups"
    assert found(folder, 0) == []


@pytest.fixture
def photos(tmp_path):
    """A picture, its copy, a smaller and a larger version; another; a video twice."""
    media = write_pictures(tmp_path / "media", 2)
    first = media / "0000" / "000000.jpg"
    shutil.copy(first, media / "copy.jpg")
    for name, size in (("large.png", (480, 320)), ("small.png", (24, 16))):
        Image.open(first).resize(size).save(media / name)
    frames = [picture(50 + n // 10, (64, 64)) for n in range(60)]
    write_video(media / "a.mp4", frames)
    write_video(media / "b.avi", frames)
    photos = Collection.create(tmp_path / "photos.ps", encoder=ColourEncoder())
    photos.ingest(media)
    return photos


def test_the_best_is_first_and_copies_have_no_distance(photos):
    groups = photos.duplicates(near=0.02)
    [pictures, videos] = sorted(groups, key=lambda group: group.kind)
    by_name = {file.path.name: file for file in pictures.files}
    assert [file.path.name for file in pictures.files] == [
        "large.png", "000000.jpg", "copy.jpg", "small.png"
    ]  # fmt: skip
    assert by_name["large.png"].distance == 0
    assert by_name["000000.jpg"].distance == by_name["copy.jpg"].distance
    assert 0 < pictures.distance < 0.02
    assert videos.kind == "video"
    assert {file.path.name for file in videos.files} == {"a.mp4", "b.avi"}
    [only_copies] = photos.duplicates(near=0)
    assert [(file.path.name, file.distance) for file in only_copies.files] == [
        ("000000.jpg", 0.0), ("copy.jpg", 0.0)
    ]  # fmt: skip
    assert photos.duplicates(where="kind = 'video'") == [videos]
    with pytest.raises(ValueError, match="from 0 to 1"):
        photos.duplicates(near=-1)


def test_dupes_prints_groups_files_and_a_page(run, photos, tmp_path):
    page = tmp_path / "dupes.html"
    code, out, err = run("dupes", photos.path, "--near", 0.02, "--page", page)
    assert code == 0
    assert "2 groups, 4 files beside the best." in err
    assert "0.000    480 x 320" in out
    assert page.read_text().count("data:image/jpeg;base64,") == 6
    code, out, _ = run("dupes", photos.path, "--near", 0.02, "--files-only")
    names = [line.rpartition("/")[2] for line in out.splitlines()]
    assert len(names) == 4
    assert set(names) > {"000000.jpg", "copy.jpg", "small.png"}
    code, out, _ = run("dupes", photos.path, "--near", 0, "--json")
    [group] = [json.loads(line) for line in out.splitlines()]
    assert (group["kind"], group["distance"], len(group["files"])) == ("image", 0.0, 2)
    assert set(group["files"][0]) == {
        "path", "distance", "content_hash", "width", "height", "size_bytes"
    }  # fmt: skip
    assert run("dupes", photos.path, "--near", 2)[0] == 1
