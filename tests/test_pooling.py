"""Whether a frame counts once or by its embedding's length is fixed with the collection."""

import numpy as np
import pytest
from fakes import ColourEncoder
from media_folder import colour, write_video

from perception_search import Collection, Segmentation
from perception_search.errors import CollectionMismatch

SEGMENT, VIDEO = 1, 2  # as a row's scope is coded


@pytest.fixture
def media(tmp_path):
    """A video of 6 grey frames and 4 red ones, whose embeddings are about eight times as long."""
    folder = tmp_path / "media"
    folder.mkdir()
    grey, red = colour((128, 128, 128), (64, 48)), colour((255, 0, 0), (64, 48))
    write_video(folder / "two.mp4", [grey] * 6 + [red] * 4, fps=1)
    return folder


def collected(path, media, pooling):
    collection = Collection.create(path, encoder=ColourEncoder(pooling=pooling))
    collection.ingest(media)
    return collection


def row(collection, scope):
    """Embedding and norm of the only row of a scope."""
    rows = collection.snapshot.rows
    [position] = np.flatnonzero(rows.scope == scope)
    return rows.embeddings(np.array([position]))[0], rows.norm[position]


def means(collection, frames):
    """The mean over `frames` of the grid: of unit embeddings, and of raw ones."""
    [content_hash] = collection.snapshot.grids
    grid = collection.snapshot.grids.of(content_hash)
    unit = [grid.embeddings[frame].astype(np.float64) for frame in frames]
    raw = [vector * float(grid.norms[frame]) for vector, frame in zip(unit, frames, strict=True)]
    return sum(unit) / len(frames), sum(raw) / len(frames)


@pytest.mark.parametrize(("pooling", "which"), [("unit-frames", 0), ("raw-frames", 1)])
def test_segments_and_videos_are_pooled_as_the_collection_says(tmp_path, media, pooling, which):
    collection = collected(tmp_path / "c.ps", media, pooling)
    uniform = [i * 9 // 7 for i in range(8)]
    for scope, frames in ((SEGMENT, range(10)), (VIDEO, uniform)):
        embedding, norm = row(collection, scope)
        mean = means(collection, frames)[which]
        assert norm == pytest.approx(np.linalg.norm(mean), rel=1e-3)
        assert embedding == pytest.approx(mean / np.linalg.norm(mean), abs=2e-3)
    unit, raw = means(collection, range(10))
    cosine = unit @ raw / np.linalg.norm(unit) / np.linalg.norm(raw)
    assert cosine < 0.95, "here it matters"


def test_segments_cut_again_are_pooled_as_before(tmp_path, media):
    collection = collected(tmp_path / "c.ps", media, "raw-frames")
    first = row(collection, SEGMENT)
    collection.resegment(Segmentation(seconds=30))
    again = row(collection, SEGMENT)
    assert again[0] == pytest.approx(first[0], abs=1e-3)
    assert again[1] == pytest.approx(first[1], rel=1e-3)


def test_a_video_finds_itself_with_the_pooling_of_the_collection(tmp_path, media):
    for pooling in ("unit-frames", "raw-frames"):
        collection = collected(tmp_path / f"{pooling}.ps", media, pooling)
        [hit] = collection.search(videos=[media / "two.mp4"])
        assert hit.score == pytest.approx(1, abs=2e-3)


def test_the_pooling_is_recorded_and_another_is_refused(tmp_path, media):
    path = collected(tmp_path / "c.ps", media, "raw-frames").path
    assert Collection.open(path).info()["pooling"] == "mean of the frames' raw embeddings"
    collection = Collection.open(path, encoder=ColourEncoder())
    with pytest.raises(CollectionMismatch, match=r"with pooling mean of the frames' raw .* unit"):
        collection.ingest(media)


def test_the_starter_pools_as_it_is_asked_and_opens_so_again(tmp_path, media):
    path = tmp_path / "c.ps"
    Collection.create(path, model="starter", pooling="raw-frames")
    Collection.open(path).ingest(media)
    assert Collection.open(path).identity.pools_raw_frames
