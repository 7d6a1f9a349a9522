"""Recipes, the files in `indexes/`: how one kind of index is built and searched; builds none."""

import math
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

EXACT = "exact"
"""Stands for no index at all."""
AUTO = "auto"
USUAL_RECALL = 0.95
"""Of the ten best rows the share that should be found, where nothing else is asked for."""
EXACT_BELOW_ROWS = 100_000
"""Fewer are scanned in 20 to 30 ms (160 without torch), and are read at opening anyway."""
_ROWS_PER_LIST = 39  # of which FAISS wants to learn at least
_BYTES_PER_DIMENSION = 0.39  # of ivf-pq in memory, see indexes/README.md
_MOST_OF_MEMORY = 0.5
_USUAL_MEMORY_BYTES = 8 << 30


@dataclass(frozen=True)
class Recipe:
    """How to build and search one kind of index; a TOML file in `indexes/`.

    Attributes:
        name: the file's name, or the factory string itself.
        factory: what `faiss.index_factory` takes; in a file `{dim}`, `{codes}` and `{lists}` stand
            for what depends on the collection, see `for_rows`.
        metric: `inner_product`: embeddings have unit length, so this is the cosine.
        when: when to choose it, one line.
        build: FAISS parameters for building, by FAISS's own names.
        search: the same for searching.
        candidates: how many rows the index is asked for, for each that is wanted; which of them
            are the best is decided by their stored embeddings.
    """

    name: str
    factory: str
    metric: str = "inner_product"
    when: str = ""
    build: Mapping[str, int] = field(default_factory=dict)
    search: Mapping[str, int] = field(default_factory=dict)
    candidates: int = 1

    def for_rows(self, num_rows: int, dim: int) -> "Recipe":
        """The recipe for so many rows of this dimension.

        `{dim}` is the dimension, up to the next multiple of 32, to which a random rotation can
        lift any; `{codes}` is half of it; `{lists}` is the power of two next to 4 times the square
        root of the number of rows, as FAISS's guidelines have it, with 39 rows a list at least.
        """
        rotated = -(-dim // 32) * 32
        wanted = round(math.log2(4 * math.sqrt(max(1, num_rows))))
        most = (max(1, num_rows // _ROWS_PER_LIST)).bit_length() - 1
        lists = 1 << min(wanted, most)
        filled = self.factory.format(dim=rotated, codes=rotated // 2, lists=lists)
        return replace(self, factory=filled)


def recipe_for(num_rows: int, dim: int, memory_bytes: int | None = None) -> tuple[str, str]:
    """The name of the recipe for so many rows, `exact` for no index at all, and why.

    Args:
        num_rows: rows to index.
        dim: length of an embedding.
        memory_bytes: what the machine has; None for this one.
    """
    if num_rows < EXACT_BELOW_ROWS:
        return EXACT, f"{num_rows:,} rows are scanned quickly: no index is needed"
    memory_bytes = memory_bytes or memory_of_machine()
    needed = num_rows * dim * _BYTES_PER_DIMENSION
    if needed > _MOST_OF_MEMORY * memory_bytes:
        why = (
            f"half a byte a dimension would take {needed / 1e9:.1f} GB of {memory_bytes / 1e9:.1f}"
        )
        return "rabitq", f"{num_rows:,} rows: an index of one bit a dimension, since {why}"
    return "ivf-pq", f"{num_rows:,} rows: an index of half a byte a dimension, and exact scores"


def memory_of_machine() -> int:
    """Bytes of memory that this machine has; of a usual one where it cannot be told."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not on Windows
        return _USUAL_MEMORY_BYTES


def recipes() -> dict[str, Recipe]:
    """Every recipe that comes with the package, by name."""
    here = Path(__file__).parent
    folder = here / "recipes"  # in an installed wheel
    if not folder.is_dir():
        folder = here.parent / "indexes"  # in a checkout
    found = {}
    for path in sorted(folder.glob("*.toml")):
        found[path.stem] = Recipe(name=path.stem, **tomllib.loads(path.read_text()))
    return found
