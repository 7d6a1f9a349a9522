"""What a language model computed of items, kept for the next question, up to so many bytes."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

    Prefix: TypeAlias = tuple[tuple[Tensor, Tensor], ...]
else:
    Prefix = tuple
"""Keys and values (1, heads, L, width) of every layer."""


class Prefixes:
    """Prefixes by item; the ones that were not used for longest leave first.

    Args:
        max_bytes: of all that are kept.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._kept: OrderedDict[str, Prefix] = OrderedDict()

    def get(self, key: str) -> Prefix | None:
        """What is kept by this key; None where nothing is."""
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def keep(self, key: str, prefix: Prefix) -> None:
        """Keep it, if there is room for it alone."""
        size = _bytes_of(prefix)
        if key in self._kept or size > self.max_bytes:
            return
        self._kept[key] = prefix
        self.num_bytes += size
        while self.num_bytes > self.max_bytes:
            _, dropped = self._kept.popitem(last=False)
            self.num_bytes -= _bytes_of(dropped)


def prefixes_in(cache: Any) -> list[Prefix]:
    """The prefixes of every member of a batch, from a cache of transformers; copies."""
    layers = [(layer.keys, layer.values) for layer in cache.layers]
    many = len(layers[0][0])
    return [
        tuple((keys[n : n + 1].clone(), values[n : n + 1].clone()) for keys, values in layers)
        for n in range(many)
    ]


def cache_of(prefixes: Sequence[Prefix]) -> Any:
    """A cache of transformers (B, heads, L, width) with prefixes of equal length, as copies."""
    import torch
    from transformers import DynamicCache

    cache = DynamicCache()
    for number in range(len(prefixes[0])):
        keys = torch.cat([prefix[number][0] for prefix in prefixes])
        values = torch.cat([prefix[number][1] for prefix in prefixes])
        cache.update(keys, values, number)
    return cache


def _bytes_of(prefix: Prefix) -> int:
    return sum(keys.nbytes + values.nbytes for keys, values in prefix)
