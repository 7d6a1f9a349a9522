"""What a language model computed of items, kept for the next question, up to so many bytes."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


class Prefixes:
    """Keys and values (1, heads, L, width) of every layer, by item; the least used leave first.

    Args:
        max_bytes: of all that are kept.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._kept: OrderedDict[str, tuple[tuple[Tensor, Tensor], ...]] = OrderedDict()

    def get(
        self, key: str, make: "Callable[[], tuple[tuple[Tensor, Tensor], ...]]"
    ) -> "tuple[tuple[Tensor, Tensor], ...]":
        """What is kept by this key; made where it is not."""
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        made = make()
        size = _bytes_of(made)
        if size <= self.max_bytes:
            self._kept[key] = made
            self.num_bytes += size
            while self.num_bytes > self.max_bytes:
                _, dropped = self._kept.popitem(last=False)
                self.num_bytes -= _bytes_of(dropped)
        return made

    def __contains__(self, key: str) -> bool:
        return key in self._kept


def layers_of(cache: Any) -> "tuple[tuple[Tensor, Tensor], ...]":
    """The keys and values in a cache of transformers."""
    return tuple((layer.keys, layer.values) for layer in cache.layers)


def cache_of(prefixes: "Sequence[tuple[tuple[Tensor, Tensor], ...]]") -> Any:
    """A cache of transformers (B, heads, L, width) with prefixes of equal length, as copies."""
    import torch
    from transformers import DynamicCache

    cache = DynamicCache()
    for number in range(len(prefixes[0])):
        keys = torch.cat([prefix[number][0] for prefix in prefixes])
        values = torch.cat([prefix[number][1] for prefix in prefixes])
        cache.update(keys, values, number)
    return cache


def _bytes_of(prefix: "tuple[tuple[Tensor, Tensor], ...]") -> int:
    return sum(keys.nbytes + values.nbytes for keys, values in prefix)
