"""Text embeddings that were computed before, on disk; a cache: losing it costs time only.

One SQLite file in the collection. Every entry carries a checksum, so a damaged one is computed
again; a file that cannot be read or written is done without.
"""

import contextlib
import hashlib
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perception_search import manifest

FILE = f"{manifest.CACHE}/text.sqlite"
CAPTIONS_FILE = f"{manifest.CACHE}/captions.sqlite"
MAX_ENTRIES = 100_000


class TextCache:
    """Embeddings by (text tower, text). `path` is made when first needed."""

    def __init__(self, path: Path, text_sha256: str, dim: int) -> None:
        self._path = path
        self._tower = text_sha256
        self._dim = dim

    def encode(
        self,
        texts: Sequence[str],
        encode_text: Callable[[Sequence[str]], NDArray[np.float32]],
    ) -> NDArray[np.float32]:
        """Unit embeddings (N, dim) float32 of `texts`; `encode_text` sees only the new ones."""
        found = self._read(texts)
        new = [text for text in dict.fromkeys(texts) if text not in found]
        if new:
            fresh = dict(zip(new, encode_text(new), strict=True))
            self._write(fresh)
            found |= fresh
        return np.stack([found[text] for text in texts]).astype(np.float32)

    def embeddings(self, limit: int) -> NDArray[np.float32]:
        """Unit embeddings (N, dim) of any `limit` texts that were asked, by whichever tower."""
        found = []
        if self._path.is_file():
            with (
                contextlib.suppress(sqlite3.Error, OSError, TypeError),
                contextlib.closing(self._connect()) as connection,
            ):
                rows = connection.execute(
                    "SELECT key, embedding, checksum FROM embeddings LIMIT ?", [limit]
                )
                for key, content, checksum in rows:
                    if checksum == _checksum(key, content) and len(content) == 4 * self._dim:
                        found.append(np.frombuffer(content, np.float32))
        return np.stack(found) if found else np.zeros((0, self._dim), np.float32)

    def _key(self, text: str) -> bytes:
        content = f"{self._tower}\0{text}".encode("utf-8", "surrogatepass")
        return hashlib.sha256(content).digest()

    def _connect(self) -> sqlite3.Connection:
        self._path.parent.mkdir(exist_ok=True)
        connection = sqlite3.connect(self._path, timeout=1.0)
        connection.execute("PRAGMA synchronous = OFF")  # what power loss damages is made anew
        connection.execute(
            "CREATE TABLE IF NOT EXISTS embeddings "
            "(key BLOB PRIMARY KEY, embedding BLOB, checksum BLOB) WITHOUT ROWID"
        )
        return connection

    def _read(self, texts: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        found: dict[str, NDArray[np.float32]] = {}
        if not self._path.is_file():
            return found
        try:
            with contextlib.closing(self._connect()) as connection:
                for text in texts:
                    key = self._key(text)
                    row = connection.execute(
                        "SELECT embedding, checksum FROM embeddings WHERE key = ?", [key]
                    ).fetchone()
                    if row and row[1] == _checksum(key, row[0]) and len(row[0]) == 4 * self._dim:
                        found[text] = np.frombuffer(row[0], np.float32)
        except (OSError, TypeError, sqlite3.OperationalError):
            pass  # locked, or on a disk that only reads: do without
        except sqlite3.DatabaseError:
            with contextlib.suppress(OSError):  # damaged: start it afresh
                self._path.unlink()
        return found

    def _write(self, fresh: dict[str, NDArray[np.float32]]) -> None:
        entries = []
        for text, embedding in fresh.items():
            key, content = self._key(text), embedding.astype(np.float32).tobytes()
            entries.append((key, content, _checksum(key, content)))
        with (
            contextlib.suppress(sqlite3.Error, OSError),  # a disk that only reads: no cache
            contextlib.closing(self._connect()) as connection,
            connection,
        ):
            connection.executemany("INSERT OR REPLACE INTO embeddings VALUES (?, ?, ?)", entries)
            (count,) = connection.execute("SELECT count(*) FROM embeddings").fetchone()
            if count > MAX_ENTRIES:
                connection.execute("DELETE FROM embeddings")


def asked(folder: Path, dim: int, limit: int) -> NDArray[np.float32]:
    """Unit embeddings (N, dim) of any `limit` texts that the collection in `folder` was asked."""
    return TextCache(folder / FILE, "", dim).embeddings(limit)


def is_whole(path: Path) -> bool:
    """Whether every entry of the cache at `path` is as it was written; True where there is none.

    One that is being written cannot be looked at, and counts as whole.
    """
    if not path.exists():
        return True
    try:
        address = f"{path.absolute().as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(address, timeout=1.0, uri=True)) as connection:
            [(said,)] = connection.execute("PRAGMA quick_check(1)")
            rows = connection.execute("SELECT key, embedding, checksum FROM embeddings")
            return said == "ok" and all(
                checksum == _checksum(key, content) for key, content, checksum in rows
            )
    except sqlite3.OperationalError as error:
        return "locked" in str(error)
    except (sqlite3.DatabaseError, TypeError, ValueError):
        return False


def _checksum(key: bytes, content: bytes) -> bytes:
    return hashlib.sha256(key + content).digest()[:8]
