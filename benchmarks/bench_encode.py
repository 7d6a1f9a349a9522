"""Pictures and words become embeddings: ours beside everyone who carries Perception Encoder.

    make bench-encode       or, in .venv-parity:
    python benchmarks/bench_encode.py [--rounds N] [--cores N] [--skip-l14] [--out FILE]

Rows, a median of interleaved rounds each, milliseconds a picture or a text:

    image      pixels ready, batches of 8 (PE-Core-B16-224) and of 4 (PE-Core-L14-336)
    text       one query of ten tokens, tokenizer included; again: asked before, from the cache on
               disk that outlives the process
    JPEG       a photograph of 12 megapixels from its bytes to pixels of 224 x 224

Peers: open_clip in float32, as it comes, and in bfloat16, its own fastest correct setting; timm,
transformers' wrapper of it and birder in float32 (the last two have no projection: it is multiplied
on). All must give our float32 embeddings (cosine >= .9999) before anything is timed.

`min_cosine` is the lowest of our default dtype to our float32, pictures and words. The weights are
random: they prove timing, not precision; see `precision.py` for outlier channels planted in them.
int8 is unproven until it is run on real weights. `l14_memory_share` is the peak memory of a process
that embeds eight pictures with ours, divided by open_clip's.
"""

import argparse
import copy
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from peers import (
    birder_model,
    import_open_clip,
    open_clip_model,
    open_clip_transform,
    random_weights,
    timm_model,
    transformers_model,
)
from PIL import Image
from precision import all_precisions, cosines, photograph
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
    """Median wall and CPU seconds of each side; they take turns, the first round is not counted."""
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


def normalised(pixels, dtype):
    return ((torch.from_numpy(pixels).float() / 255 - 0.5) / 0.5).to(dtype)


def image_peers(name, tensors, *, every):
    """Peers by name, each a function of pixels float32 (B, 3, H, W) in -1..1 to embeddings.

    Args:
        name: as released.
        tensors: by the names of the release.
        every: of all libraries, not of open_clip alone.
    """
    open_clip = open_clip_model(name, tensors)
    fast = copy.deepcopy(open_clip).to(torch.bfloat16)
    peers = {
        "open_clip float32": lambda x: open_clip.encode_image(x),
        "open_clip bfloat16": lambda x: fast.encode_image(x.to(torch.bfloat16)),
    }
    if every:
        timm, wrapped, birder = (
            make(name, tensors) for make in (timm_model, transformers_model, birder_model)
        )
        projection = tensors["visual.proj"]
        peers |= {
            "timm float32": lambda x: timm(x),
            "transformers float32": lambda x: wrapped(x).pooler_output @ projection,
            "birder float32": lambda x: birder.embedding(x) @ projection,
        }
    return peers


def images(name, weights, tensors, batch, num_rounds, *, every):
    """Rows of one model's vision tower, and the lowest cosine of our default dtype."""
    size = MODELS[name].vision.image_size
    pixels = np.random.default_rng(0).integers(0, 256, (batch, 3, size, size), np.uint8)
    ours = PerceptionEncoder(name, weights=weights)
    exact = PerceptionEncoder(name, weights=weights, dtype="float32")
    small = PerceptionEncoder(name, weights=weights, dtype="int8")
    peers = image_peers(name, tensors, every=every)

    def asked(peer):
        with torch.inference_mode():
            return peer(normalised(pixels, torch.float32)).float().numpy()

    mine = exact.encode_frames(pixels)
    for peer, encode in peers.items():
        if peer.endswith("float32"):
            assert cosines(mine, asked(encode)).min() >= LEAST_COSINE, peer
    lowest = float(cosines(ours.encode_frames(pixels), mine).min())
    sides = {
        f"{name} image, ours {ours.dtype}": lambda: ours.encode_frames(pixels),
        f"{name} image, int8 (ours, unproven)": lambda: small.encode_frames(pixels),
    }
    if ours.dtype != "float32":
        sides[f"{name} image, float32 (ours)"] = lambda: exact.encode_frames(pixels)
    for peer, encode in peers.items():
        sides[f"{name} image, {peer}"] = lambda encode=encode: asked(encode)
    rows = medians(sides, num_rounds)
    return {row: (wall / batch, cpu / batch) for row, (wall, cpu) in rows.items()}, lowest


def texts(weights, tensors, num_rounds):
    """Rows of a query of ten tokens, and the lowest cosine of our default dtype."""
    open_clip = import_open_clip()
    tokenizer = open_clip.get_tokenizer("PE-Core-B-16")
    assert int((tokenizer([QUERY])[0] != 0).sum()) == 10
    model = open_clip_model(B16, tensors)
    ours = PerceptionEncoder(B16, weights=weights)
    exact = PerceptionEncoder(B16, weights=weights, dtype="float32")
    small = PerceptionEncoder(B16, weights=weights, dtype="int8")

    def theirs():
        with torch.inference_mode():
            return model.encode_text(tokenizer([QUERY]), normalize=True).numpy()

    assert cosines(exact.encode_text([QUERY]), theirs()).min() >= LEAST_COSINE
    lowest = float(cosines(ours.encode_text([QUERY]), exact.encode_text([QUERY])).min())
    with tempfile.TemporaryDirectory() as folder:
        cache = TextCache(Path(folder) / "text.sqlite", "bench", MODELS[B16].dim)
        cache.encode([QUERY], ours.encode_text)
        sides = {
            f"text, ours {ours.dtype}": lambda: ours.encode_text([QUERY]),
            "text, again (ours)": lambda: cache.encode([QUERY], ours.encode_text),
            "text, int8 (ours, unproven)": lambda: small.encode_text([QUERY]),
            "text, open_clip float32": theirs,
        }
        if ours.dtype != "float32":
            sides["text, float32 (ours)"] = lambda: exact.encode_text([QUERY])
        return medians(sides, num_rounds), lowest


def jpegs(num_rounds):
    """Rows of a photograph of 12 megapixels, and its pixels decoded small and whole."""
    file = io.BytesIO()
    Image.fromarray(photograph(0, 4000, 3000)).save(file, "JPEG", quality=90)
    content = file.getvalue()
    transform = open_clip_transform(B16)
    spec = FrameSpec(224, 224)

    def ours():
        return decode_image(content, "JPEG", spec, 50_000_000).pixels

    def theirs():
        return transform(Image.open(io.BytesIO(content)).convert("RGB"))

    exact = prepare_image(Image.open(io.BytesIO(content)), spec)
    rows = medians({"JPEG 12 MP, ours": ours, "JPEG 12 MP, open_clip": theirs}, num_rounds)
    return rows, ours(), exact


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


def measured(options):
    """All rows, the precisions, and the figures that are no ratio of rows."""
    rows, lowest, result, precisions = {}, [], {}, {}
    some, fast, exact = jpegs(options.rounds)
    rows |= some
    error = ((fast.astype(np.float64) - exact) ** 2).mean()
    result["jpeg12mp_decibels"] = round(float(10 * np.log10(255**2 / error)), 1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{B16}.safetensors"
        tensors = random_weights(B16, path, with_text=True)
        for some, cosine in (
            images(B16, path, tensors, 8, options.rounds, every=True),
            texts(path, tensors, options.rounds),
        ):
            rows |= some
            lowest.append(cosine)
        precisions[B16] = all_precisions(B16, path, folder, with_text=True, fast=fast, exact=exact)
        if not options.skip_l14:
            path = Path(folder) / f"{L14}.safetensors"
            tensors = random_weights(L14, path)
            some, cosine = images(L14, path, tensors, 4, options.rounds, every=False)
            rows |= some
            lowest.append(cosine)
            del tensors
            ours, theirs = memory("ours", path), memory("open_clip", path)
            result["l14_memory_share"] = round(ours / theirs, 2)
            result["l14_memory_bytes"] = {"ours": ours, "open_clip": theirs}
            precisions[L14] = all_precisions(
                L14, path, folder, with_text=False, fast=fast, exact=exact
            )
    return rows, precisions, result | {"min_cosine": round(min(lowest), 6)}


def ratios(rows, *, with_l14):
    """The figures of the last line that divide a peer's median by ours."""
    wall = {row: seconds for row, (seconds, _) in rows.items()}

    def ratio(theirs, ours):
        [mine] = [seconds for row, seconds in wall.items() if row.startswith(ours)]
        return round(wall[theirs] / mine, 2)

    ours, theirs = f"{B16} image, ours", f"{B16} image, "
    found = {
        "b16_image_speedup": ratio(f"{theirs}open_clip float32", ours),
        "b16_image_speedup_fast_peer": ratio(f"{theirs}open_clip bfloat16", ours),
        "b16_image_speedup_timm": ratio(f"{theirs}timm float32", ours),
        "b16_image_speedup_transformers": ratio(f"{theirs}transformers float32", ours),
        "b16_image_speedup_birder": ratio(f"{theirs}birder float32", ours),
        "b16_image_speedup_int8_unproven": ratio(f"{theirs}open_clip float32", f"{theirs}int8"),
        "jpeg12mp_speedup": ratio("JPEG 12 MP, open_clip", "JPEG 12 MP, ours"),
        "text10_speedup": ratio("text, open_clip float32", "text, ours"),
        "text_again_ms": round(1000 * wall["text, again (ours)"], 3),
    }
    if with_l14:
        ours, theirs = f"{L14} image, ours", f"{L14} image, "
        found |= {
            "l14_image_speedup": ratio(f"{theirs}open_clip float32", ours),
            "l14_image_speedup_fast_peer": ratio(f"{theirs}open_clip bfloat16", ours),
        }
    return found


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--cores", type=int, help="use this many cores only")
    parser.add_argument("--skip-l14", action="store_true")
    parser.add_argument("--out", type=Path, help="a file for the JSON as well")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    parser.add_argument("--weights", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
        torch.set_num_threads(options.cores)
    if options.peak_of:
        embed_eight(options.peak_of, options.weights)
        return
    rows, precisions, result = measured(options)
    for row, (wall, cpu) in rows.items():
        print(f"{1000 * wall:8.2f} ms  {1000 * cpu:8.1f} CPU ms  {row}")
    for name, own in precisions.items():
        for what, cosine in own.items():
            print(f"{cosine:.6f}  {name} {what}")
    result = ratios(rows, with_l14=not options.skip_l14) | result
    isa = os.environ.get("ONEDNN_MAX_CPU_ISA")
    result |= {
        "machine": machine() + (f", oneDNN held to {isa}" if isa else ""),
        "torch": torch.__version__,
    }
    full = result | {
        "cosines": precisions,
        "rows": {row: list(map(float, each)) for row, each in rows.items()},
    }
    if options.out:
        options.out.write_text(json.dumps(full, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
