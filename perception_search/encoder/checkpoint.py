"""A weights file: the tensors it holds, by name, mapped and not read; knows no model."""

import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perception_search.errors import WeightsMismatch

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_WRAPPERS = ("state_dict", "weights", "state")  # what training code, Meta's and birder's put around
_BEGINNINGS = (  # of files that are given by mistake, in lower case
    (b"version https://git-lfs", "a Git LFS pointer: the file itself was never fetched"),
    (b"<!doctype html", "a web page, as a failed download leaves it"),
    (b"<html", "a web page, as a failed download leaves it"),
    (b"gguf", "a GGUF file"),
    (b"\x89hdf", "an HDF5 file"),
    (b"{", "JSON"),
    (b"\x08", "an ONNX model or another protocol buffer"),
)


class Checkpoint:
    """The tensors of a safetensors file or of a torch file of tensors, by their names.

    Nothing but tensors is ever unpickled.

    Args:
        path: of the file; its content, not its name, says which of the two it is.

    Raises:
        WeightsMismatch: it is neither; the message says what it looks like.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open()

    @property
    def keys(self) -> Collection[str]:
        """The names, in the order of the file."""
        return self._keys

    def tensor(self, key: str) -> "Tensor":
        """One tensor, mapped from the file where the format allows it.

        Raises:
            WeightsMismatch: its bytes are damaged.
        """
        try:
            tensor: Tensor = self._get(key)
        except Exception as error:  # a damaged file raises anything
            raise self._unreadable(error) from error
        return tensor

    def reopen(self) -> None:
        """Map the file anew: the pages read so far are let go with the tensors that used them."""
        self._open()

    def _open(self) -> None:
        try:
            if _is_safetensors(self.path):
                from safetensors import safe_open

                file: Any = safe_open(self.path, framework="pt")
                self._get, self._keys = file.get_tensor, list(file.keys())
            else:
                state = self._unpickled()
                self._get, self._keys = state.__getitem__, list(state)
        except WeightsMismatch:
            raise
        except Exception as error:  # a damaged file raises anything
            raise self._unreadable(error) from error

    def _unpickled(self) -> "dict[str, torch.Tensor]":
        import torch

        # Only torch's zip format can be mapped.
        state: Any = torch.load(
            self.path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(self.path)
        )
        for wrapper in _WRAPPERS:
            if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
                state = state[wrapper]
                break
        if not isinstance(state, dict) or not state:
            raise WeightsMismatch(f"{self.path} holds {type(state).__name__}, not tensors by name")
        for key, value in state.items():
            if not isinstance(value, torch.Tensor):
                raise WeightsMismatch(f"{self.path}: {key} is {type(value).__name__}, not a tensor")
        return state

    def _unreadable(self, error: Exception) -> WeightsMismatch:
        size_bytes = self.path.stat().st_size
        kind = _what_it_is(self.path)
        return WeightsMismatch(
            f"{self.path} ({size_bytes} bytes{', ' + kind if kind else ''}) cannot be read as a "
            f"weights file, which is a safetensors file or a torch file that holds tensors only: "
            f"{error}"
        )


def _is_safetensors(path: Path) -> bool:
    """Whether a JSON header of a believable length stands at the beginning."""
    with path.open("rb") as file:
        start = file.read(9)
    length = int.from_bytes(start[:8], "little")
    if path.suffix == ".safetensors":
        return True
    return len(start) == 9 and start[8:] == b"{" and length < path.stat().st_size


def _what_it_is(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(64).lstrip().lower()
    if not start:
        return "empty"
    return next((what for beginning, what in _BEGINNINGS if start.startswith(beginning)), "")
