"""Where in a video: frame scores on its stored time grid become moments with times and a score.

A moment's score is the cosine of the target to the unit mean of its frames, as a segment's is: one
scale with pictures and segments. `spans` says how its edges are found: relative to the video's own
level, so that in a short video, which often is one moment, they would be found within it.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from perception_search.decode_limits import num_cores
from perception_search.resegment import end_of
from perception_search.scoring import Scorer
from perception_search.snapshot import Snapshot
from perception_search.spans import Span, edges, find_spans

SHORT_SECONDS = 10.0
"""A video up to this long is one moment."""


class Moment(NamedTuple):
    """A stretch [start_seconds, end_seconds) of a video, and the time of its best frame.

    `peak` is the score of that frame and its neighbours, by which moments are looked for.
    """

    score: float
    start_seconds: float
    end_seconds: float
    best_seconds: float
    peak: float


def frame_scores(
    snapshot: Snapshot, scorer: Scorer, content_hashes: Sequence[str]
) -> list[NDArray[np.float32]]:
    """Scores (T,) of the grid frames of each of these videos.

    Raises:
        CollectionDamaged: a grid is not what was written.
    """
    grids = snapshot.grids
    with ThreadPoolExecutor(num_cores()) as pool:  # NumPy lets others run meanwhile
        return list(pool.map(lambda name: scorer.scores(grids.of(name).embeddings), content_hashes))


def moments_of(
    snapshot: Snapshot,
    scorer: Scorer,
    content_hash: str,
    scores: NDArray[np.float32],
    duration_seconds: float | None,
) -> Iterator[Moment]:
    """The moments of one video, which do not overlap, by falling peak; there is always one.

    Args:
        snapshot: where its grid is.
        scorer: of what is looked for.
        content_hash: the video.
        scores: (T,) of its frames.
        duration_seconds: how long it is, where that is known.
    """
    grid = snapshot.grids.of(content_hash)
    cuts = snapshot.cuts_of(content_hash) or ()
    pts_seconds = grid.pts_seconds
    end_seconds = end_of(pts_seconds, duration_seconds, snapshot.grid_seconds)
    if len(scores) > 1 and end_seconds - pts_seconds[-1] < snapshot.grid_seconds / 2:
        # what is left of the video is too short for a moment; it belongs to the frame before
        pts_seconds, scores = pts_seconds[:-1], scores[:-1]
    is_short = end_seconds <= SHORT_SECONDS
    whole = Span(0, len(scores), float(scores.max()))
    for span in [whole] if is_short else find_spans(scores):
        mean = grid.embeddings[span.first : span.stop].astype(np.float32).mean(axis=0)
        unit = mean / max(float(np.linalg.norm(mean)), 1e-9)
        best = span.first + int(np.argmax(scores[span.first : span.stop]))
        start, end = edges(span, pts_seconds, end_seconds, cuts)
        score = float(scorer.scores(unit[None])[0])
        yield Moment(score, start, end, float(pts_seconds[best]), span.peak)
