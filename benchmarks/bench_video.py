"""A video becomes frames, and frames one embedding: ours, and what one would write without us.

Two H.264 videos of 1280 x 720 at 30 frames a second, key frames at cuts and every 250 frames, are
made on the spot: of 10 seconds and of 5 minutes. Of each, the eight frames of Perception Encoder's
whole-video protocol are decoded, brought to 224 x 224 and embedded with PE-Core-B16-224, with the
same random weights on all sides:

    ours                  a decode worker, `encode_video` in the default dtype
    decord, float32       decord's get_batch, open_clip's transform and model
    decord, bfloat16      the same, with open_clip's model in bfloat16
    PyAV seeks, float32   PyAV, a seek for each frame

Before anything is timed, both sides must give the same embeddings (cosine >= .9999 in float32).
The rows `decode` are of decoding alone: of ours with the resize to 224 x 224 and the way out of the
worker, of the peers without (whole frames). `grid` is a frame a second, which decord makes small
itself; `key frames` the same points in `Sampling(grid="keyframes")`, which takes other frames and
is compared with decord's exact ones: `keyframe_speedup` is the lesser of these ratios. All rows of
a video are run in turns; medians. `others_cores` tells how many cores other programs took
meanwhile: wall times mean something where it is near 0. OMP_NUM_THREADS=1 puts the networks of all
sides on one thread, which a busy machine disturbs less.

`memory_growth` is the peak memory of all processes of an ingest of 2 hours (320 x 180, an encoder
of 1 ms a batch) divided by that of 10 minutes.

    make bench-video      or, in .venv-parity:
    python benchmarks/bench_video.py [--quick] [--rounds N] [--media FOLDER]
        [--skip-memory] [--out FILE]

`--media`: holds 10s.mp4, 5min.mp4, 10min-small.mp4 and 2h-small.mp4; what is missing is made there.
"""

import argparse
import copy
import functools
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import av
import decord
import numpy as np
import torch
from numpy.typing import NDArray
from peers import open_clip_model, open_clip_transform, random_weights
from PIL import Image
from processes import PeakMemory, Spent, machine
from videos import write_video

from perception_search import PerceptionEncoder
from perception_search.decode import MediaReader, Sampling, uniform_indices

MODEL = "PE-Core-B16-224"
NUM_FRAMES = 8
LEAST_COSINE = 0.9999
WHOLE_VIDEO = Sampling(num_uniform_frames=NUM_FRAMES, grid="none")
GRID = Sampling(num_uniform_frames=1)
KEY_FRAMES = Sampling(num_uniform_frames=1, grid="keyframes")
VIDEOS = {
    "10s": (10, (1280, 720)),
    "5min": (300, (1280, 720)),
    "10min-small": (600, (320, 180)),
    "2h-small": (7200, (320, 180)),
}
QUICK_VIDEOS = {"10s": VIDEOS["10s"], "5min": (30, (1280, 720))}
TESTS = Path(__file__).resolve().parents[1] / "tests"

INGEST = """
import sys
from pathlib import Path
from fakes import ColourEncoder
from perception_search import Collection

video, folder = sys.argv[1:]
photos = Collection.create(Path(folder, "videos.ps"), encoder=ColourEncoder(delay_seconds=0.001))
report = photos.ingest(video)
assert report.ingested == 1, report
"""

Side = Callable[[Path], Any]


class Ours:
    """This package: frames from a worker process, embedded at once."""

    def __init__(self, weights: Path, dtype: str = "auto") -> None:
        self.encoder = PerceptionEncoder(MODEL, weights=weights, dtype=dtype)
        self.reader = MediaReader()

    def pixels(self, path: Path, sampling: Sampling = WHOLE_VIDEO) -> NDArray[np.uint8]:
        _, frames = self.reader.decode(path, self.encoder.frame_spec, sampling)
        return frames.pixels

    def embeddings(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self.encoder.encode_frames(pixels)

    def video(self, path: Path) -> NDArray[np.float32]:
        return self.encoder.encode_video(self.pixels(path))


class OpenClip:
    """open_clip's model, and the transform that its pretrained tag would bring."""

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        self._model = copy.deepcopy(model).to(dtype)
        self._dtype = dtype
        self._transform = open_clip_transform(MODEL)

    def embeddings(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Raw embeddings of pictures (N, H, W, 3) of any size."""
        batch = torch.stack([self._transform(Image.fromarray(each)) for each in pictures])
        with torch.inference_mode():
            return self._model.encode_image(batch.to(self._dtype)).float().numpy()

    def video(self, decode: Side, path: Path) -> NDArray[np.float32]:
        return pooled(self.embeddings(decode(path)))


def decord_frames(path: Path) -> NDArray[np.uint8]:
    """The whole-video protocol's frames, (N, H, W, 3)."""
    reader = decord.VideoReader(str(path))
    return reader.get_batch(uniform_indices(len(reader), NUM_FRAMES)).asnumpy()


def decord_grid(path: Path) -> NDArray[np.uint8]:
    """A frame a second, (N, H, W, 3), made small by decord: its fastest way, with other pixels."""
    reader = decord.VideoReader(str(path), width=224, height=224)
    step = round(reader.get_avg_fps())
    return reader.get_batch(list(range(0, len(reader), step))).asnumpy()


def pyav_frames(path: Path) -> NDArray[np.uint8]:
    """The same as `decord_frames`, with a seek for each frame."""
    pictures = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        ticks_per_frame = 1 / (stream.average_rate * stream.time_base)
        for index in uniform_indices(stream.frames, NUM_FRAMES):
            wanted = stream.start_time + round(index * ticks_per_frame)
            container.seek(wanted, stream=stream)
            frame = next(f for f in container.decode(stream) if f.pts >= wanted)
            pictures.append(frame.to_ndarray(format="rgb24"))
    return np.stack(pictures)


def pooled(embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean of the frames at unit length, at unit length."""
    mean = (embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)).mean(axis=0)
    return mean / np.linalg.norm(mean)


def cosines(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    return (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))


def compared(path: Path, weights: Path, ours: Ours, theirs: OpenClip) -> dict[str, float]:
    """How far apart the two sides are, on the frames of one video; raises where it is too far."""
    exact = Ours(weights, "float32")
    mine, whole = exact.pixels(path), decord_frames(path)
    resized = [
        Image.fromarray(each).resize((224, 224), Image.Resampling.BILINEAR) for each in whole
    ]
    their = np.stack([np.asarray(each).transpose(2, 0, 1) for each in resized])
    levels = np.abs(mine.astype(np.int16) - their)
    embeddings = exact.embeddings(mine)
    result = {
        "cosine_same_pixels": float(
            cosines(embeddings, theirs.embeddings(mine.transpose(0, 2, 3, 1))).min()
        ),
        "cosine_own_pixels": float(cosines(embeddings, theirs.embeddings(whole)).min()),
        "cosine_of_our_default_dtype": float(cosines(ours.embeddings(mine), embeddings).min()),
        "cosine_of_different_frames": float(cosines(embeddings[:-1], embeddings[1:]).max()),
        "pixel_difference_mean_levels": float(levels.mean()),
        "pixel_difference_max_levels": float(levels.max()),
        "pyav_seeks_difference_mean_levels": float(
            np.abs(pyav_frames(path).astype(np.int16) - whole).mean()
        ),
    }
    exact.reader.close()
    for name in ("cosine_same_pixels", "cosine_own_pixels"):
        assert result[name] >= LEAST_COSINE, result
    return {name: round(value, 6) for name, value in result.items()}


def timed(path: Path, sides: dict[str, Side], num_rounds: int) -> dict[str, dict[str, float]]:
    """Medians of all sides, which take turns."""
    spent: dict[str, list[Spent]] = {name: [] for name in sides}
    for _ in range(num_rounds):
        for name, side in sides.items():
            with Spent() as now:
                side(path)
            spent[name].append(now)
    return {
        name: {
            "wall_seconds": round(statistics.median(each.wall_seconds for each in all_), 4),
            "cpu_seconds": round(statistics.median(each.cpu_seconds for each in all_), 3),
            "fastest_seconds": round(min(each.wall_seconds for each in all_), 4),
            "others_cores": round(statistics.median(each.others_cores for each in all_), 2),
        }
        for name, all_ in spent.items()
    }


def peak_bytes(path: Path) -> int:
    """The most memory that all processes of an ingest of one video hold."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", INGEST, str(path), folder]
        process = subprocess.Popen(command, cwd=TESTS)
        with PeakMemory(process.pid) as peak:
            process.wait()
        assert process.returncode == 0
    return peak.num_bytes


def measure(media: Path, rounds: dict[str, int]) -> dict[str, Any]:
    """All rows of both videos, the comparison before them, and the ratios."""
    weights = media / f"{MODEL}.safetensors"
    model = open_clip_model(MODEL, random_weights(MODEL, weights))
    ours = Ours(weights)
    float32, bfloat16 = OpenClip(model, torch.float32), OpenClip(model, torch.bfloat16)
    result: dict[str, Any] = {
        "our_dtype": ours.encoder.dtype,
        "threads": torch.get_num_threads(),
        "compared": {},
        "rows": {},
    }
    whole: dict[str, Side] = {
        "end to end: ours": ours.video,
        "end to end: decord, float32": functools.partial(float32.video, decord_frames),
        "end to end: decord, bfloat16": functools.partial(bfloat16.video, decord_frames),
        "end to end: PyAV seeks, float32": functools.partial(float32.video, pyav_frames),
        "decode: ours": ours.pixels,
        "decode: decord": decord_frames,
        "decode: PyAV seeks": pyav_frames,
    }
    grid: dict[str, Side] = {
        "grid: ours": functools.partial(ours.pixels, sampling=GRID),
        "grid: decord": decord_grid,
        "key frames: ours": functools.partial(ours.pixels, sampling=KEY_FRAMES),
    }
    for side in (whole | grid).values():  # warm, not counted
        side(media / "10s.mp4")
    for name in ("10s", "5min"):
        path = media / f"{name}.mp4"
        result["compared"][name] = compared(path, weights, ours, float32)
        print(name, json.dumps(result["compared"][name]), flush=True)
        rows = timed(path, whole, rounds[name]) | timed(path, grid, rounds["grid"])
        for row, values in rows.items():
            print(
                f"{name:5} {values['wall_seconds']:8.3f} s  {values['cpu_seconds']:8.2f} CPU s"
                f"  {values['others_cores']:5.2f} cores of others  {row}",
                flush=True,
            )
        result["rows"][name] = rows
    ours.reader.close()
    return ratios(result["rows"]) | result


def ratios(rows: dict[str, Any]) -> dict[str, float]:
    """How many times as long as ours the others take."""
    out = {}
    for video in ("10s", "5min"):
        wall = {name: values["wall_seconds"] for name, values in rows[video].items()}
        pairs = {
            f"video{video}_speedup": ("end to end: decord, float32", "end to end: ours"),
            f"video{video}_speedup_bfloat16": ("end to end: decord, bfloat16", "end to end: ours"),
            f"video{video}_speedup_pyav": ("end to end: PyAV seeks, float32", "end to end: ours"),
            f"video{video}_decode_speedup": ("decode: decord", "decode: ours"),
            f"video{video}_decode_speedup_pyav": ("decode: PyAV seeks", "decode: ours"),
            f"video{video}_grid_speedup": ("grid: decord", "grid: ours"),
            f"video{video}_keyframe_speedup": ("grid: decord", "key frames: ours"),
        }
        out |= {key: round(wall[theirs] / wall[mine], 2) for key, (theirs, mine) in pairs.items()}
    out["keyframe_speedup"] = min(out[f"video{video}_keyframe_speedup"] for video in rows)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="30 s for 5 min, 3 rounds, no ingest")
    parser.add_argument("--media", type=Path, help="folder of the videos; kept")
    parser.add_argument("--rounds", type=int, help="of every row, instead of 7 and 5")
    parser.add_argument("--skip-memory", action="store_true")
    parser.add_argument("--out", type=Path, help="a file for the JSON as well")
    args = parser.parse_args()
    videos = QUICK_VIDEOS if args.quick else VIDEOS
    rounds = {"10s": 3, "5min": 3, "grid": 3} if args.quick else {"10s": 7, "5min": 5, "grid": 3}
    if args.rounds:
        rounds = dict.fromkeys(rounds, args.rounds)
    with tempfile.TemporaryDirectory() as temporary:
        media = args.media or Path(temporary)
        media.mkdir(parents=True, exist_ok=True)
        for name, (seconds, size) in videos.items():
            if not (media / f"{name}.mp4").exists():
                write_video(media / f"{name}.mp4", seconds, size)
        result = measure(media, rounds)
        if not args.quick and not args.skip_memory:
            peaks = [peak_bytes(media / f"{name}.mp4") for name in ("10min-small", "2h-small")]
            result["peak_mebibytes_10min"], result["peak_mebibytes_2h"] = (
                round(peak / 2**20) for peak in peaks
            )
            result["memory_growth"] = round(peaks[1] / peaks[0], 3)
    packages = ("av", "eva-decord", "open_clip_torch", "timm", "torch", "pillow")
    result |= {
        "machine": machine(),
        "versions": {name: metadata.version(name) for name in packages},
        "quick": args.quick,
    }
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
