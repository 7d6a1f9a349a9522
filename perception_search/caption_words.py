"""Captions by their words: BM25, through bm25s; knows no ranking of items and no embedding.

Words are what lies between spaces and marks, in lower case, brought to their stem by Snowball's
English rules; the commonest English words do not count. The index is a copy of the captions, kept
in the collection's cache: it is built anew for another version of them, and where a byte of it has
changed.
"""

import contextlib
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception_search import durable, manifest
from perception_search.snapshot import Snapshot

FOLDER = f"{manifest.CACHE}/caption-words"

_WORD = r"(?u)\b\w+\b"
_HASHES = "sha256.json"


class CaptionWords:
    """BM25 scores of all captions of one version; `k1` 1.5, `b` 0.75, Lucene's form of the IDF."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.num_captions = snapshot.captions.num_rows
        self._index = self._opened(snapshot) if self.num_captions else None

    def scores(self, text: str) -> NDArray[np.float32]:
        """How well each caption, in the order of `Snapshot.captions`, answers the words of `text`.

        Returns:
            (N,) float32, 0 where it shares no word with it.
        """
        words = _words([text])[0]
        if self._index is None or not words:
            return np.zeros(self.num_captions, np.float32)
        scores: NDArray[np.float32] = self._index.get_scores(words)
        return scores

    def _opened(self, snapshot: Snapshot) -> Any:
        """The index of these captions: from the cache, or built and put there."""
        import bm25s

        names = [file.sha256 for file in snapshot.manifest.of("captions")]
        made_of = "\n".join([bm25s.__version__, _WORD, *names])
        folder = snapshot.folder / FOLDER
        path = folder / hashlib.sha256(made_of.encode()).hexdigest()[:32]
        if _is_whole(path):
            with contextlib.suppress(OSError, ValueError, KeyError):
                return bm25s.BM25.load(path, show_progress=False)
        words = _words(snapshot.captions["text"].to_pylist())
        if not any(words):
            return None
        index = bm25s.BM25()
        index.index(words, show_progress=False)
        with contextlib.suppress(OSError):  # a disk that only reads, or a full one: no cache
            shutil.rmtree(folder, ignore_errors=True)
            _save(index, path)
        return index


def _save(index: Any, path: Path) -> None:
    """Keep an index in `path`; the hashes come last, so that without them nothing is there."""
    path.mkdir(parents=True)
    index.save(path, show_progress=False)
    hashes = {file.name: durable.sha256_of(file) for file in path.iterdir()}
    (path / _HASHES).write_text(json.dumps(hashes, sort_keys=True))


def _is_whole(path: Path) -> bool:
    """Whether every file of an index is as it was written."""
    try:
        hashes = json.loads((path / _HASHES).read_text())
        return bool(hashes) and all(
            durable.sha256_of(path / name) == sha256 for name, sha256 in hashes.items()
        )
    except (OSError, ValueError, AttributeError, TypeError):
        return False


def _words(texts: list[str]) -> list[list[str]]:
    """The words of each text that count, as their stems."""
    import bm25s
    import Stemmer

    stemmer = Stemmer.Stemmer("english")
    words: list[list[str]] = bm25s.tokenize(
        texts,
        token_pattern=_WORD,
        stopwords="en",
        stemmer=stemmer,
        return_ids=False,
        show_progress=False,
    )
    return [[word for word in some if word] for some in words]
