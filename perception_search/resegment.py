"""A video's time grid becomes its segment rows: when it is ingested, and whenever asked again.

Opens no media file: everything comes from the embeddings of the grid and the cuts that were seen
while the video was decoded.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from perception_search.encoder.protocol import Identity
from perception_search.segments import Segmentation, cut, windows
from perception_search.shots import boundaries
from perception_search.snapshot import Snapshot
from perception_search.writer import NewRow, Writer


def segment_rows(
    embeddings: NDArray[np.floating],
    pts_seconds: NDArray[np.float64],
    segmentation: Segmentation,
    *,
    end_seconds: float,
    cuts: Sequence[float] | None,
    lengths: NDArray[np.float32] | None,
) -> list[NewRow]:
    """The segment rows of one video.

    Args:
        embeddings: (T, dim) unit embeddings of its grid frames, as they are stored.
        pts_seconds: (T,) their times, ascending.
        segmentation: which stretches.
        end_seconds: where the video ends.
        cuts: when its picture changes at once; None where that is not known.
        lengths: (T,) of the raw embeddings, where frames are pooled raw; else None.
    """
    by_shots = segmentation.by == "shots"
    shots = boundaries(cuts, embeddings, pts_seconds) if by_shots else ()
    return [
        NewRow("segment", s.embedding, s.norm, s.num_frames, s.start_seconds, s.end_seconds)
        for s in cut(
            embeddings, pts_seconds, windows(segmentation, end_seconds, shots), lengths=lengths
        )
    ]


def end_of(
    pts_seconds: NDArray[np.float64], duration_seconds: float | None, grid_seconds: float
) -> float:
    """Where a video ends: as its container says, or one grid step after its last frame."""
    return duration_seconds or float(pts_seconds[-1]) + grid_seconds


def resegment(
    writer: Writer,
    segmentation: Segmentation,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> Snapshot:
    """Find the collection's videos by other stretches from now on.

    Args:
        writer: the collection's, entered.
        segmentation: which stretches.
        on_progress: called with (videos done, videos in all).
    """
    rows = _all_rows(writer.snapshot, segmentation, on_progress)
    return writer.replace_segments(rows, segmentation)


def _all_rows(
    snapshot: Snapshot,
    segmentation: Segmentation,
    on_progress: Callable[[int, int], None] | None,
) -> Iterator[tuple[str, NewRow]]:
    columns = (snapshot.items[name].to_pylist() for name in ("content_hash", "duration_seconds"))
    durations = dict(zip(*columns, strict=True))
    total = len(list(snapshot.grids))
    pools_raw_frames = Identity(**snapshot.manifest.collection["identity"]).pools_raw_frames
    for done, content_hash in enumerate(snapshot.grids, start=1):
        grid = snapshot.grids.of(content_hash)
        for row in segment_rows(
            grid.embeddings,
            grid.pts_seconds,
            segmentation,
            end_seconds=end_of(
                grid.pts_seconds, durations.get(content_hash), snapshot.grid_seconds
            ),
            cuts=snapshot.cuts_of(content_hash),
            lengths=grid.norms if pools_raw_frames else None,
        ):
            yield content_hash, row
        if on_progress is not None:
            on_progress(done, total)
