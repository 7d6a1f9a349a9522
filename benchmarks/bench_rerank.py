"""Hits judged a second by a Perception LM of the true size, with and without the shared prefix.

    python benchmarks/bench_rerank.py [--size 1B] [--images 64] [--videos 16] [--device auto]

The weights are random: what is timed does not depend on them. A hit is a picture, 256 tokens, or
8 frames of a video, 2,048. Three times are taken, batches of eight, median of three rounds:

    first     a query over hits that were never seen: decoding, vision tower, prefix, question
    shared    another query over the same hits: the question alone, its prefixes in memory
    unshared  the same without what is kept: what a judge costs that computes all anew

Scores with and without the shared prefix are compared first. The last line is one JSON object.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "tests")]

from plm_folder import make_plm

from perception_search.encoder.device import choose_device, choose_dtype, described
from perception_search.hits import Hit
from perception_search.plm import PerceptionLM

LLAMA_1B = {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
}
TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
SIZES: dict[str, dict[str, Any]] = {
    "1B": {"depth": 23, "vocab_size": 128_256, **LLAMA_1B},
    "tiny": {"depth": 1, **TINY},
}
AT_ONCE = 8
FRAMES = 8


class Judge:
    """A judge whose hits are pictures in files, and videos in memory: 8 such pictures each."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        make = dict(SIZES[options.size])
        make_plm(folder, dtype=torch.bfloat16, **make)
        self.plm = PerceptionLM(
            str(folder), accept_license=True, device=options.device, prefix_bytes=64 << 30
        )
        self.images = [picture(folder, n, "image") for n in range(options.images)]
        self.videos = [picture(folder, n, "video") for n in range(options.videos)]
        if options.videos:
            self._as_videos()

    def _as_videos(self) -> None:
        """Have files called `video` count as videos of 8 equal frames, without a decoder."""
        decode = self.plm._reader.decode

        def repeated(path: Path, spec: Any, sampling: Any) -> Any:
            item, frames = decode(path, spec, sampling)
            if path.name.startswith("video"):
                frames.num_uniform[:] = FRAMES
            return item, frames

        self.plm._reader.decode = repeated  # type: ignore[method-assign]

    def forget(self) -> None:
        self.plm._prefixes = type(self.plm._prefixes)(self.plm._prefixes.max_bytes)

    def ask(self, query: str, hits: list[Hit]) -> list[float]:
        scores: list[float] = []
        for first in range(0, len(hits), AT_ONCE):
            scores += self.plm.scores(query, hits[first : first + AT_ONCE])  # type: ignore[arg-type]
        return scores


def picture(folder: Path, number: int, kind: str) -> Hit:
    path = folder / f"{kind}{number}.jpg"
    rng = np.random.default_rng(number)
    small = Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8))
    small.resize((1024, 768), Image.Resampling.BICUBIC).save(path, quality=90)
    return Hit(number, path, kind, 0.5)


def seconds(judge: Judge, query: str, hits: list[Hit], *, forget: bool) -> float:
    if forget:
        judge.forget()
    start = time.perf_counter()
    judge.ask(query, hits)
    return time.perf_counter() - start


def measure(judge: Judge, hits: list[Hit], rounds: int) -> dict[str, float]:
    judge.forget()
    start = time.perf_counter()
    shared = judge.ask("a dog on a beach", hits)
    first = time.perf_counter() - start
    alone = []
    for hit in hits[:AT_ONCE]:
        judge.forget()
        alone += judge.ask("a dog on a beach", [hit])
    apart = float(np.abs(np.array(shared[: len(alone)]) - alone).max())
    judge.ask("a red car", hits)
    taken: dict[str, list[float]] = {"shared": [], "unshared": []}
    for number in range(rounds):
        for side in taken:
            query = f"a question of round {number}"
            if side == "shared":
                judge.ask("what is kept", hits)
            taken[side].append(seconds(judge, query, hits, forget=side == "unshared"))
    rates = {side: len(hits) / statistics.median(times) for side, times in taken.items()}
    return {
        "first_hits_per_second": len(hits) / first,
        "shared_hits_per_second": rates["shared"],
        "unshared_hits_per_second": rates["unshared"],
        "shared_over_unshared": rates["shared"] / rates["unshared"],
        "largest_difference": apart,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="1B")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--videos", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, help="a file for the JSON as well")
    options = parser.parse_args()
    device = choose_device(options.device)
    result: dict[str, Any] = {
        "model": f"Perception LM {options.size}, random weights",
        "device": described(device),
        "dtype": choose_dtype("auto", device),
        "torch": torch.__version__,
        "batch": AT_ONCE,
    }
    with tempfile.TemporaryDirectory() as folder:
        judge = Judge(Path(folder), options)
        for kind, hits in (("image", judge.images), ("video", judge.videos)):
            if hits:
                judge.ask("warm up", hits[:AT_ONCE])
                found = measure(judge, hits, options.rounds)
                print(kind, json.dumps(found), flush=True)
                result |= {f"{kind}_{name}": round(value, 4) for name, value in found.items()}
        judge.plm.close()
    if device.type == "cuda":
        result["gpu_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
