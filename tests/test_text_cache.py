"""The text cache: asked once, never wrong, and never missed when it cannot be had."""

import sqlite3

import numpy as np
import pytest
from stores import DIM, unit

from perception_search.text_cache import TextCache


@pytest.fixture
def asked():
    return []


@pytest.fixture
def encode(asked):
    def encode(texts):
        asked.extend(texts)
        return np.stack([unit(len(text)) for text in texts])

    return encode


def test_a_text_is_encoded_once(tmp_path, encode, asked):
    for _ in range(2):
        cache = TextCache(tmp_path / "cache" / "text.sqlite", "tower", DIM)
        found = cache.encode(["aa", "b", "aa"], encode)
        assert np.array_equal(found, np.stack([unit(2), unit(1), unit(2)]))
    assert asked == ["aa", "b"]


def test_another_tower_shares_nothing(tmp_path, encode, asked):
    path = tmp_path / "text.sqlite"
    TextCache(path, "one", DIM).encode(["a"], encode)
    TextCache(path, "two", DIM).encode(["a"], encode)
    assert asked == ["a", "a"]


def test_a_damaged_entry_is_made_again(tmp_path, encode, asked):
    path = tmp_path / "text.sqlite"
    TextCache(path, "tower", DIM).encode(["a"], encode)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE embeddings SET embedding = zeroblob(?)", [4 * DIM])
    found = TextCache(path, "tower", DIM).encode(["a"], encode)
    assert np.array_equal(found[0], unit(1))
    assert asked == ["a", "a"]


@pytest.mark.parametrize("content", [b"", b"no database at all" * 100])
def test_a_file_that_is_no_database_is_done_without(tmp_path, encode, content):
    path = tmp_path / "text.sqlite"
    path.write_bytes(content)
    for _ in range(2):
        found = TextCache(path, "tower", DIM).encode(["a"], encode)
        assert np.array_equal(found[0], unit(1))


def test_a_folder_that_cannot_be_written_is_no_hindrance(tmp_path, encode):
    (tmp_path / "file").write_text("a file where the folder should be")
    found = TextCache(tmp_path / "file" / "text.sqlite", "tower", DIM).encode(["a"], encode)
    assert np.array_equal(found[0], unit(1))
