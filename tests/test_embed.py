"""Frames that show the same are embedded once; the result is as if each had been."""

from fractions import Fraction

import numpy as np
import pytest
from fakes import ColourEncoder
from media_folder import colour, write_video

from perception_search import Collection, Sampling
from perception_search.embed import _is_new, _spread


def frames(*levels):
    return np.stack([np.full((3, 2, 2), level, np.uint8) for level in levels])


def test_only_what_differs_is_new():
    assert _is_new(frames(5, 5, 6, 6, 5), None, 0).tolist() == [True, False, True, False, True]
    assert _is_new(frames(5, 5, 6), frames(5)[0], 0).tolist() == [False, False, True]
    # against the last embedded one, not the last seen: a slow change is seen in time
    assert _is_new(frames(5, 6, 7, 8, 9), None, 2).tolist() == [True, False, False, True, False]


def test_every_frame_gets_the_embedding_of_what_it_shows():
    new = np.array([[1.0], [2.0]], np.float32)
    last = np.array([9.0], np.float32)
    assert _spread(new, np.array([True, True]), None) is new
    assert _spread(new, np.array([True, False, True, False]), None).ravel().tolist() == [1, 1, 2, 2]
    assert _spread(new, np.array([False, True, True]), last).ravel().tolist() == [9, 1, 2]
    none = np.empty((0, 1), np.float32)
    assert _spread(none, np.array([False, False]), last).ravel().tolist() == [9, 9]


@pytest.fixture
def slides(tmp_path):
    """Four slides of 30 seconds, with a little noise; one frame a second, of which 24 fit a chunk
    and a half."""
    rng = np.random.default_rng(0)
    media = tmp_path / "media"
    media.mkdir()
    shown = [
        np.clip(colour(rgb, (64, 48)) + rng.normal(0, 2, (48, 64, 3)), 0, 255).astype(np.uint8)
        for rgb in ((200, 40, 40), (40, 200, 40), (40, 40, 200), (200, 200, 200))
        for _ in range(30)
    ]
    write_video(media / "slides.mp4", shown, fps=1)
    return media


def test_skipped_stills_cost_nothing_and_change_little(tmp_path, slides):
    counts, grids = [], []
    for skip_stills in (False, True):
        encoder = ColourEncoder()
        collection = Collection.create(
            tmp_path / f"{skip_stills}.ps",
            encoder=encoder,
            sampling=Sampling(skip_stills=skip_stills),
        )
        collection.ingest(slides)
        [content_hash] = collection.snapshot.grids
        counts.append(encoder.num_frames)
        grids.append(collection.snapshot.grids.of(content_hash))
    every, skipped = grids
    assert counts[0] >= 60
    assert counts[1] <= 10
    assert every.pts_seconds.tolist() == skipped.pts_seconds.tolist()
    cosines = (every.embeddings.astype(float) * skipped.embeddings).sum(1)
    assert cosines.min() > 0.99


def test_a_picture_on_screen_for_long_is_embedded_once(tmp_path):
    media = tmp_path / "media"
    media.mkdir()
    write_video(media / "still.mp4", [colour((9, 90, 200), (64, 48))] * 3, fps=Fraction(1, 10))
    encoder = ColourEncoder()
    collection = Collection.create(tmp_path / "c.ps", encoder=encoder)
    collection.ingest(media)
    [content_hash] = collection.snapshot.grids
    assert len(collection.snapshot.grids.of(content_hash).pts_seconds) == 30
    assert encoder.num_frames <= 3
