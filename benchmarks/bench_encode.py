"""Pictures and words become embeddings: ours beside open_clip, same weights, same inputs.

    make bench-encode       or, in .venv-parity:
    python benchmarks/bench_encode.py [--rounds N] [--skip-l14] [--out FILE]

Rows, a median of interleaved rounds each, milliseconds a picture or a text:

    image      pixels ready, batches of 8 (PE-Core-B16-224) and of 4 (PE-Core-L14-336)
    text       one query of ten tokens, tokenizer included; again: asked before, from the cache on
               disk that outlives the process
    JPEG       a photograph of 12 megapixels from its bytes to pixels of 224 x 224

Peers: open_clip in float32, as it comes, and in bfloat16, its own fastest correct setting. timm's
vision tower is the one inside open_clip; birder and transformers' wrapper are not here yet. Both
sides must give the same embeddings (cosine >= .9999 in float32) before anything is timed.
`min_cosine` is the lowest of our default dtype to our float32, pictures and words. The weights are
random: they prove timing, not precision. `l14_memory_share` is the peak memory of a process that
embeds eight pictures with ours, divided by open_clip's.
"""

import argparse
import copy
import io
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from peers import import_open_clip, open_clip_model, open_clip_transform, random_weights
from PIL import Image
from processes import Spent, machine

from perception_search import PerceptionEncoder
from perception_search.decode_image import decode_image
from perception_search.encoder.config import MODELS
from perception_search.frames import FrameSpec, prepare_image
from perception_search.text_cache import TextCache

B16, L14 = "PE-Core-B16-224", "PE-Core-L14-336"
QUERY = "a brown dog runs over the green grass"  # ten tokens with begin and end
LEAST_COSINE = 0.9999


def medians(sides, num_rounds):
    """Median wall and CPU seconds of each side; they take turns, the first is not counted."""
    spent = {name: [] for name in sides}
    for number in range(num_rounds + 1):
        for name, side in sides.items():
            with Spent() as now:
                side()
            if number:
                spent[name].append(now)
    return {
        name: (
            statistics.median(each.wall_seconds for each in all_),
            statistics.median(each.cpu_seconds for each in all_),
        )
        for name, all_ in spent.items()
    }


def cosines(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


def normalised(pixels, dtype):
    return ((torch.from_numpy(pixels).float() / 255 - 0.5) / 0.5).to(dtype)


def images(name, weights, tensors, batch, num_rounds):
    """Rows of one model's vision tower, and the lowest cosine of our default dtype."""
    size = MODELS[name].vision.image_size
    pixels = np.random.default_rng(0).integers(0, 256, (batch, 3, size, size), np.uint8)
    model = open_clip_model(name, tensors)
    fast = copy.deepcopy(model).to(torch.bfloat16)
    ours = PerceptionEncoder(name, weights=weights)
    exact = PerceptionEncoder(name, weights=weights, dtype="float32")

    def theirs(which, dtype):
        with torch.inference_mode():
            return which.encode_image(normalised(pixels, dtype)).float().numpy()

    mine = exact.encode_frames(pixels)
    assert cosines(mine, theirs(model, torch.float32)).min() >= LEAST_COSINE
    lowest = float(cosines(ours.encode_frames(pixels), mine).min())
    del exact
    rows = medians(
        {
            f"{name} image, ours {ours.dtype}": lambda: ours.encode_frames(pixels),
            f"{name} image, open_clip float32": lambda: theirs(model, torch.float32),
            f"{name} image, open_clip bfloat16": lambda: theirs(fast, torch.bfloat16),
        },
        num_rounds,
    )
    return {row: (wall / batch, cpu / batch) for row, (wall, cpu) in rows.items()}, lowest


def texts(weights, tensors, num_rounds):
    """Rows of a query of ten tokens, and the lowest cosine of our default dtype."""
    open_clip = import_open_clip()
    tokenizer = open_clip.get_tokenizer("PE-Core-B-16")
    assert int((tokenizer([QUERY])[0] != 0).sum()) == 10
    model = open_clip_model(B16, tensors)
    ours = PerceptionEncoder(B16, weights=weights)
    exact = PerceptionEncoder(B16, weights=weights, dtype="float32")

    def theirs():
        with torch.inference_mode():
            return model.encode_text(tokenizer([QUERY]), normalize=True).numpy()

    assert cosines(exact.encode_text([QUERY]), theirs()).min() >= LEAST_COSINE
    lowest = float(cosines(ours.encode_text([QUERY]), exact.encode_text([QUERY])).min())
    with tempfile.TemporaryDirectory() as folder:
        cache = TextCache(Path(folder) / "text.sqlite", "bench", MODELS[B16].dim)
        cache.encode([QUERY], ours.encode_text)

        def again():
            return cache.encode([QUERY], ours.encode_text)

        rows = medians(
            {
                f"text, ours {ours.dtype}": lambda: ours.encode_text([QUERY]),
                "text, ours, asked before": again,
                "text, open_clip float32": theirs,
            },
            num_rounds,
        )
    return rows, lowest


def jpegs(num_rounds):
    """Rows of a photograph of 12 megapixels, and how near ours is to the exact one, in dB."""
    rng = np.random.default_rng(0)
    rough = Image.fromarray(rng.integers(0, 256, (75, 100, 3), np.uint8))
    picture = rough.resize((4000, 3000), Image.Resampling.BICUBIC)
    noisy = np.asarray(picture).astype(np.int16) + rng.integers(-12, 13, (3000, 4000, 3))
    file = io.BytesIO()
    Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    content = file.getvalue()
    transform = open_clip_transform(B16)
    spec = FrameSpec(224, 224)

    def ours():
        return decode_image(content, "JPEG", spec, 50_000_000).pixels

    def theirs():
        return transform(Image.open(io.BytesIO(content)).convert("RGB"))

    exact = prepare_image(Image.open(io.BytesIO(content)), spec).astype(np.float64)
    error = ((ours() - exact) ** 2).mean()
    rows = medians({"JPEG 12 MP, ours": ours, "JPEG 12 MP, open_clip": theirs}, num_rounds)
    return rows, float(10 * np.log10(255**2 / error))


def memory(side, weights):
    """Peak resident bytes of a process that embeds eight pictures with L14."""
    command = [sys.executable, __file__, "--peak-of", side, "--weights", str(weights)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


def embed_eight(side, weights):
    """What `memory` runs."""
    size = MODELS[L14].vision.image_size
    pixels = np.random.default_rng(0).integers(0, 256, (8, 3, size, size), np.uint8)
    if side == "ours":
        encoder = PerceptionEncoder(L14, weights=weights)
        for first in range(0, 8, encoder.batch_size):
            encoder.encode_frames(pixels[first : first + encoder.batch_size])
    else:
        model = import_open_clip().create_model("PE-Core-L-14-336", pretrained=None).eval()
        with torch.inference_mode():
            for first in range(0, 8, 4):
                model.encode_image(normalised(pixels[first : first + 4], torch.float32))
    status = Path("/proc/self/status").read_text()  # getrusage counts what the parent held too
    print(int(status.partition("VmHWM:")[2].split()[0]) * 1024)


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--skip-l14", action="store_true")
    parser.add_argument("--out", type=Path, help="a file for the JSON as well")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    parser.add_argument("--weights", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak_of:
        embed_eight(options.peak_of, options.weights)
        return
    rows, lowest, result = {}, [], {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{B16}.safetensors"
        tensors = random_weights(B16, path, with_text=True)
        some, cosine = images(B16, path, tensors, 8, options.rounds)
        rows |= some
        lowest.append(cosine)
        some, cosine = texts(path, tensors, options.rounds)
        rows |= some
        lowest.append(cosine)
        some, decibels = jpegs(options.rounds)
        rows |= some
        if not options.skip_l14:
            path = Path(folder) / f"{L14}.safetensors"
            some, cosine = images(L14, path, random_weights(L14, path), 4, options.rounds)
            rows |= some
            lowest.append(cosine)
            share = memory("ours", path) / memory("open_clip", path)
            result["l14_memory_share"] = round(share, 2)
    for row, (wall, cpu) in rows.items():
        print(f"{1000 * wall:8.2f} ms  {1000 * cpu:8.1f} CPU ms  {row}")
    wall = {row: seconds for row, (seconds, _) in rows.items()}

    def ratio(theirs, ours):
        [mine] = [seconds for row, seconds in wall.items() if row.startswith(ours)]
        return round(wall[theirs] / mine, 2)

    result |= {
        "b16_image_speedup": ratio(f"{B16} image, open_clip float32", f"{B16} image, ours"),
        "b16_image_speedup_fast_peer": ratio(
            f"{B16} image, open_clip bfloat16", f"{B16} image, ours"
        ),
        "jpeg12mp_speedup": ratio("JPEG 12 MP, open_clip", "JPEG 12 MP, ours"),
        "jpeg12mp_decibels": round(decibels, 1),
        "text10_speedup": ratio("text, open_clip float32", "text, ours "),
        "text_again_ms": round(1000 * wall["text, ours, asked before"], 3),
        "min_cosine": round(min(lowest), 5),
        "machine": machine(),
        "torch": torch.__version__,
    }
    if not options.skip_l14:
        result["l14_image_speedup"] = ratio(f"{L14} image, open_clip float32", f"{L14} image, ours")
    if options.out:
        full = result | {"rows": {row: list(map(float, each)) for row, each in rows.items()}}
        options.out.write_text(json.dumps(full, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
