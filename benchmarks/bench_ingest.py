"""How much of an ingest's time goes where it must: to the encoder, or to all cores.

1,000 JPEG photographs of 0.3 megapixels and 200 of 12, cut from the sample media, are ingested
with each encoder into a new collection. The least time an ingest can take is

    bound = max(time to encode that many frames alone, CPU seconds of everything / cores)

and both are measured in the same run: encoding alone before and after the ingest, CPU seconds by
the operating system over the process and its decoding workers. `busy_share` is the bound divided
by the time from the first file opened to the last commit.

    python benchmarks/bench_ingest.py [--small 1000] [--large 200] [--encoders starter B16-random]

`B16-random` and `L14-random` are PE-Core models with random weights, which take the same time. On a
GPU they compute there, and the bound says whether it or the decoding CPU comes first.
"""

import argparse
import json
import os
import resource
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from peers import random_weights
from PIL import Image

from perception_search import Collection, load_encoder
from perception_search.assets import sample_media
from perception_search.encoder.protocol import encode_batches

ENCODERS = {"B16-random": "PE-Core-B16-224", "L14-random": "PE-Core-L14-336", "starter": "starter"}
SMALL, LARGE = (640, 480), (4000, 3000)
BATCHES = 16


def write_photographs(folder: Path, count: int, size: tuple[int, int], seed: int) -> None:
    """`count` JPEGs of `size`: random parts of the sample photographs."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    paths = [p for p in sorted(sample_media().iterdir()) if p.suffix in (".jpg", ".png")]
    sources = [Image.open(path).convert("RGB") for path in paths]
    shares = rng.uniform(0.5, 1, count)
    corners = rng.uniform(0, 1, (count, 2)) * (1 - shares[:, None])

    def write(number: int) -> None:
        source, share = sources[number % len(sources)], shares[number]
        (left, top), (width, height) = corners[number], source.size
        box = (left * width, top * height, (left + share) * width, (top + share) * height)
        part = source.resize(size, Image.Resampling.BILINEAR, box=box)
        part.save(folder / f"{number:05d}.jpg", quality=88)

    with ThreadPoolExecutor() as pool:
        list(pool.map(write, range(count)))


def cpu_seconds() -> float:
    """CPU seconds of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def seconds_per_frame(encoder: Any, num_batches: int) -> float:
    """Time a frame where nothing but the encoder runs, over `num_batches` of random pixels."""
    spec = encoder.frame_spec
    shape = (encoder.batch_size, 3, spec.height, spec.width)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    encoder.encode_frames(pixels)
    start = time.monotonic()
    for _ in encode_batches(encoder, [pixels] * num_batches):
        pass
    return (time.monotonic() - start) / (num_batches * len(pixels))


def measure(name: str, encoder: Any, media: Path, folder: Path) -> dict[str, Any]:
    """One ingest of `media` with `encoder`, and its bound."""
    times = [seconds_per_frame(encoder, BATCHES) for _ in range(2)]
    photos = Collection.create(folder / f"{name}.ps", encoder=encoder)
    before = cpu_seconds()
    report = photos.ingest(media)
    cpu = cpu_seconds() - before
    times += [seconds_per_frame(encoder, BATCHES) for _ in range(2)]
    assert not report.failed, report.failed[:3]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    encode_alone = min(times) * report.ingested
    bound = max(encode_alone, cpu / (cores or 1))
    return {
        "encoder": name,
        **encoder.provenance,
        "images": report.ingested,
        "wall_seconds": round(report.seconds, 2),
        "images_per_second": round(report.ingested / report.seconds, 2),
        "encode_alone_seconds": round(encode_alone, 2),
        "cpu_seconds": round(cpu, 2),
        "cores": cores,
        "bound_by": "encoder" if bound == encode_alone else "all cores",
        "busy_share": round(bound / report.seconds, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--small", type=int, default=1000)
    parser.add_argument("--large", type=int, default=200)
    parser.add_argument(
        "--encoders", nargs="+", choices=ENCODERS, default=["starter", "B16-random"]
    )
    args = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        media = folder / "media"
        write_photographs(media / "small", args.small, SMALL, seed=0)
        write_photographs(media / "large", args.large, LARGE, seed=1)
        for name in args.encoders:
            model, weights = ENCODERS[name], None
            if model != "starter":
                weights = folder / f"{model}.safetensors"
                random_weights(model, weights)
            encoder = load_encoder(model, weights=weights)
            result = measure(name, encoder, media, folder)
            print(json.dumps(result))
            results.append(result)
    print(
        json.dumps(
            {
                "encoder_busy_share": min(result["busy_share"] for result in results),
                "results": results,
            }
        )
    )


if __name__ == "__main__":
    main()
