"""The two roads meet: what the real command stores is what the reference's own steps give.

One road: files through the command line, decoding processes, batches, Parquet. The other: each
file opened, resized, normalised and put through the network by itself, in plain sight below.
"""

import json

import av
import data
import numpy as np
import pytest
import torch
from PIL import Image
from synthetic import T16

from perception_search.encoder import PerceptionEncoder
from perception_search.snapshot import Snapshot

NUM_PHOTOS = 12
CLIPS = ["060_dog.mp4", "122_test.avi"]


def reference(tower, pictures):
    """Raw embeddings (N, dim) by the reference's steps: squash, bilinear, RGB, mean = std = 0.5."""
    vectors = []
    for picture in pictures:
        resized = picture.resize((384, 384), Image.Resampling.BILINEAR).convert("RGB")
        pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1).float() / 255
        with torch.inference_mode():
            vectors.append(tower((pixels[None] - 0.5) / 0.5)[0].numpy())
    return np.stack(vectors)


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def all_frames(path):
    """Every frame of a video with its time from the first one."""
    with av.open(str(path)) as container:
        frames = [(float(f.pts * f.time_base), f.to_image()) for f in container.decode(video=0)]
    return [(time - frames[0][0], picture) for time, picture in frames]


@pytest.fixture(scope="module")
def photos():
    found = []
    for path in sorted((data.folder("coco345") / "images").iterdir()):
        with Image.open(path) as image:
            if image.getexif().get(0x0112, 1) == 1:
                found.append(path)
        if len(found) == NUM_PHOTOS:
            return found
    pytest.fail(f"fewer than {NUM_PHOTOS} photographs")


@pytest.mark.slow
def test_the_two_roads_meet(tmp_path, photos, t16_files, run):
    def command(*arguments):
        code, out, err = run(*arguments)
        assert code == 0, err
        return out

    weights = t16_files["safetensors"]
    clips = [data.folder("clips") / name for name in CLIPS]
    path = tmp_path / "photos.ps"
    command("create", path, "--model", T16.name, "--weights", weights)
    command("ingest", path, "--dtype", "float32", "--no-fast-jpeg", *photos, *clips)

    encoder = PerceptionEncoder(T16.name, weights=weights, dtype="float32", device="cpu")
    snapshot = Snapshot.open(path)
    rows = snapshot.rows
    owner = {p: h for h, paths in snapshot.live_paths.items() for p in paths}
    hashes = np.array(rows.content_hash.to_pylist())
    stored = unit(rows.embeddings(np.arange(len(rows))))
    checked = 0

    for photo in photos:
        [position] = np.flatnonzero(hashes == owner[photo])
        with Image.open(photo) as image:
            raw = reference(encoder.vision, [image])[0]
        assert stored[position] @ unit(raw) >= 0.99999
        assert rows.norm[position] == pytest.approx(np.linalg.norm(raw), rel=1e-3)
        checked += 1

    for clip in clips:
        frames = all_frames(clip)
        count = len(frames)
        chosen = [int(i * (count - 1) / 7) for i in range(8)]
        whole = unit(reference(encoder.vision, [frames[n][1] for n in chosen])).mean(0)
        mine = np.flatnonzero(hashes == owner[clip])
        [position] = [p for p in mine if rows.scope[p] == 2]
        assert stored[position] @ unit(whole) >= 0.99999
        assert rows.norm[position] == pytest.approx(np.linalg.norm(whole), rel=1e-3)
        checked += 1
        # the grid: at every full second the last frame that has begun
        times = np.array([time for time, _ in frames])
        for position in (p for p in mine if rows.scope[p] == 1):
            start, end = rows.start_seconds[position], rows.end_seconds[position]
            points = np.arange(np.ceil(start), np.ceil(end))
            shown = [int(np.searchsorted(times, t + 1e-3, side="right")) - 1 for t in points]
            assert rows.num_frames[position] == len(shown)
            mean = unit(reference(encoder.vision, [frames[n][1] for n in shown])).mean(0)
            assert stored[position] @ unit(mean) >= 0.99999
            assert rows.norm[position] == pytest.approx(np.linalg.norm(mean), rel=1e-3)
            checked += 1
    assert checked == len(rows)

    # and search --json is what NumPy finds by brute force
    for query in ("a dog in a garden", "two bicycles"):
        lines = command("search", path, query, "-k", 20, "--json", "--dtype", "float32")
        hits = [json.loads(line) for line in lines.splitlines()]
        text = encoder.encode_text([query])[0]
        raw_rows = rows.embeddings(np.arange(len(rows)))
        best = {}
        for position in np.flatnonzero(rows.scope != 2):
            score = float(raw_rows[position] @ text)
            content_hash = hashes[position]
            if content_hash not in best or score > best[content_hash][0]:
                best[content_hash] = score, int(rows.row_id[position])
        expected = sorted(best.values(), reverse=True)[:20]
        assert [hit["row_id"] for hit in hits] == [row_id for _, row_id in expected]
        assert [hit["score"] for hit in hits] == pytest.approx([s for s, _ in expected], abs=1e-5)
        assert set(hits[0]) >= {
            "row_id", "path", "kind", "score", "start_seconds", "end_seconds", "caption",
            "rerank_score",
        }  # fmt: skip
