"""What was seen of files, kept on disk by choice: 1 to 2 MB a tile or frame; a cache.

Every file begins with the SHA-256 of the rest; one that is damaged, or cannot be read or written,
is done without.
"""

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from perception_search import durable

if TYPE_CHECKING:
    from torch import Tensor

_DIGEST_BYTES = 32


class TokenFiles:
    """Tokens (chunks, tokens, width) by a model and a key, in a folder that is made when needed."""

    def __init__(self, folder: Path, model: str) -> None:
        self._folder = folder
        self._model = model

    def get(self, key: str) -> "Tensor | None":
        """What was kept; None where nothing was, or where it is damaged."""
        from safetensors.torch import load

        with suppress(OSError, ValueError, KeyError):
            content = self._path(key).read_bytes()
            digest, payload = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
            if hashlib.sha256(payload).digest() == digest:
                return load(payload)["tokens"]
        return None

    def keep(self, key: str, tokens: "Tensor") -> None:
        """Write them, if it can be done."""
        from safetensors.torch import save

        payload = save({"tokens": tokens.cpu().contiguous()})
        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            durable.write(self._path(key), hashlib.sha256(payload).digest() + payload)

    def _path(self, key: str) -> Path:
        return (
            self._folder / f"{hashlib.sha256(f'{self._model} {key}'.encode()).hexdigest()}.tokens"
        )
