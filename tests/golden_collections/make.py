"""Makes the collection of the present format, with its answers, that later versions must open.

python tests/golden_collections/make.py NAME

Run once whatever is written otherwise than before; NAME is the `schema_version`, and a word on what
is new. What is committed is never made again.
"""

import json
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from stores import make, unit  # noqa: E402

from perception_search.snapshot import Snapshot  # noqa: E402

NUM_ITEMS = 12
K = 4


def answers(snapshot: Snapshot) -> list[list[list[object]]]:
    """For each of five queries the best rows: id, path and score to three digits."""
    every = np.arange(len(snapshot.rows))
    paths = snapshot.live_paths
    found = []
    for query in (0, 5, 11, 100, 101):
        scores = snapshot.rows.embeddings(every) @ unit(query)
        best = np.argsort(-scores, kind="stable")[:K]
        hashes = [snapshot.rows.content_hash[int(place)].as_py() for place in best]
        found.append(
            [
                [int(snapshot.rows.row_id[place]), str(paths[name][0]), round(float(s), 3)]
                for place, name, s in zip(best, hashes, scores[best], strict=True)
            ]
        )
    return found


def main() -> None:
    name = sys.argv[1]
    folder = HERE / name
    make(folder, NUM_ITEMS, grid=True, captions=True)
    (folder / "writer.lock").unlink()
    told = json.dumps(answers(Snapshot.open(folder)), indent=1)
    (HERE / f"{name}.json").write_text(told + "\n")


if __name__ == "__main__":
    main()
