"""Where in a video: frame scores on its stored time grid become moments with times and a score.

A moment's score is the cosine of the target to the unit mean of its frames, as a segment's is: one
scale with pictures and segments. `spans` says how its edges are found: relative to the video's own
level, so that in a short video, which often is one moment, they would be found within it.
"""

from typing import NamedTuple

import numpy as np

from perception_search.resegment import end_of
from perception_search.scoring import Scorer
from perception_search.snapshot import Snapshot
from perception_search.spans import Span, edges, find_spans

SHORT_SECONDS = 10.0
"""A video up to this long is one moment."""


class Moment(NamedTuple):
    """A stretch [start_seconds, end_seconds) of a video, and the time of its best frame."""

    score: float
    start_seconds: float
    end_seconds: float
    best_seconds: float


def moments_of(
    snapshot: Snapshot,
    scorer: Scorer,
    content_hash: str,
    duration_seconds: float | None,
    limit: int,
) -> list[Moment]:
    """Up to `limit` moments of one video that do not overlap, the one with the best frame first.

    Args:
        snapshot: where its grid is.
        scorer: of what is looked for.
        content_hash: the video.
        duration_seconds: how long it is, where that is known.
        limit: moments wanted, >= 1.

    Raises:
        CollectionDamaged: its grid is not what was written.
    """
    grid = snapshot.grids.of(content_hash)
    scores = scorer.of_frames(grid.embeddings)
    cuts = snapshot.cuts.get(content_hash, ())
    end_seconds = end_of(grid.pts_seconds, duration_seconds, snapshot.grid_seconds)
    is_short = end_seconds <= SHORT_SECONDS
    found = []
    for span in [Span(0, len(scores))] if is_short else find_spans(scores, limit):
        mean = grid.embeddings[span.first : span.stop].mean(axis=0, dtype=np.float64)
        unit = (mean / max(float(np.linalg.norm(mean)), 1e-9)).astype(np.float32)
        best = span.first + int(np.argmax(scores[span.first : span.stop]))
        start, end = edges(span, grid.pts_seconds, end_seconds, cuts)
        score = float(scorer.scores(unit[None])[0])
        found.append(Moment(score, start, end, float(grid.pts_seconds[best])))
    return found
