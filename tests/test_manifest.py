"""The list of files: two copies, either of which is enough, and nothing older in silence."""

import hashlib
import json

import pytest

from perception_search import manifest
from perception_search.errors import CollectionDamaged, CollectionNotFound
from perception_search.manifest import Manifest, StoredFile

COLLECTION = {"schema_version": 1, "identity": {"dim": 8}}
FILE = StoredFile("rows", "ab" * 32, 1000, 10, ({"device": "cpu"},))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / manifest.FOLDER).mkdir()
    for version in (1, 2):
        manifest.write(tmp_path, Manifest(version, COLLECTION, version * 10, (FILE,), ("/photos",)))
    return tmp_path


def sealed(body):
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f'{{"body":{text},"sha256":"{digest}"}}\n'.encode()


def test_a_manifest_is_read_that_says_less_or_more(folder):
    """Of a program from before segmentations and footers' hashes, and of a later one."""
    content = manifest.path_of(folder, 2, "a").read_bytes()
    for name in ("said later", None):
        body = json.loads(content)["body"]
        if name is None:
            del body["segmentation"], body["files"][0]["footer_sha256"]
        else:
            body[name] = body["files"][0][name] = "a word"
        assert Manifest.decode(sealed(body)) == Manifest.decode(content)


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position // 8 % len(content)] ^= 1 << position % 8
    path.write_bytes(content)


def test_what_was_written_is_read(folder):
    assert manifest.read(folder) == Manifest(2, COLLECTION, 20, (FILE,), ("/photos",))


@pytest.mark.parametrize("copy", manifest.COPIES)
def test_either_copy_is_enough(folder, copy):
    manifest.path_of(folder, 2, copy).unlink()
    assert manifest.read(folder).version == 2


def test_every_flipped_bit_of_a_copy_is_noticed(folder):
    path = manifest.path_of(folder, 2, "a")
    content = path.read_bytes()
    for position in range(len(content) * 8):
        flip(path, position)
        with pytest.raises((ValueError, OSError)):
            manifest.read_copy(folder, 2, "a")
        path.write_bytes(content)


def test_two_damaged_copies_are_named_and_nothing_older_is_opened(folder):
    for copy in manifest.COPIES:
        flip(manifest.path_of(folder, 2, copy), 100)
    with pytest.raises(CollectionDamaged, match=r"neither 00000002\.a\.json nor 00000002\.b\.json"):
        manifest.read(folder)


def test_healing_restores_the_lost_copy_and_the_description(folder):
    manifest.path_of(folder, 2, "b").unlink()
    manifest.heal(folder, manifest.read(folder))
    assert manifest.read_copy(folder, 2, "b") == manifest.read_copy(folder, 2, "a")
    described = (folder / manifest.COLLECTION_FILE).read_bytes()
    assert described == manifest.encode_collection(COLLECTION)


def test_a_folder_that_is_no_collection_is_said_to_be_none(tmp_path):
    with pytest.raises(CollectionNotFound, match="is not a collection"):
        manifest.read(tmp_path)
    with pytest.raises(CollectionNotFound, match="is not a collection"):
        manifest.read(tmp_path / "nowhere")


def test_a_format_of_the_future_is_refused(tmp_path):
    (tmp_path / manifest.FOLDER).mkdir()
    manifest.write(tmp_path, Manifest(1, COLLECTION | {"schema_version": 2}))
    with pytest.raises(CollectionDamaged, match="format 2; this program reads 1"):
        manifest.read(tmp_path)
