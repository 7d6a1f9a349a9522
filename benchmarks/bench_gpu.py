"""Frames and texts through a GPU, and the share of what its matrix units can do.

    make bench-gpu          or, in .venv-parity:
    python benchmarks/bench_gpu.py [--device cuda] [--rounds N] [--out FILE]

The matrix rate is that of one large product of squares, measured first. Rows:

    frames     uint8 frames that lie on the device, normalised there: ours and timm's, eager and
               compiled (of timm's G14 the blocks one by one, as the whole takes minutes); the
               share is floating-point operations, computed from the model's configuration, divided
               by the matrix rate
    stream     batches in host memory, as an ingest hands them over: copied while the last batch
               computes (overlapped), and one after the other
    devices    the same batches shared out to every GPU, a process each
    texts      rows of 7 to 32 tokens, 13 on average: every row as long as the context (padded),
               sorted by length and cut at the longest of a batch (cut), one behind the other
               without any padding (packed, by xformers)

Medians of rounds in which the sides take turns; what is compiled or loaded is so before. All sides
must give the same embeddings (cosine >= .999) before they are timed. The weights are random.

Without a GPU, or with `--device cpu`, small models go through the same code to show that it runs;
rows that need a GPU are printed as not run.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers import random_weights, timm_model
from processes import machine
from torch import Tensor

from perception_search import PerceptionEncoder
from perception_search.encoder.compiled import Compute, compile_blocks, in_full_batches
from perception_search.encoder.config import MODELS, TextConfig, VisionConfig
from perception_search.encoder.packing import check_xformers, encode_packed, xformers_attention
from perception_search.encoder.towers import TextTower, to_unit_range
from perception_search.errors import EncoderError, MissingExtra

T16, B16 = "PE-Core-T16-384", "PE-Core-B16-224"
G14 = "PE-Core-G14-448"
GPU_MODELS = (B16, "PE-Core-L14-336", G14)
PATHS = ("ours, eager", "ours, compiled", "timm, eager", "timm, compiled")
TEXT_WAYS = ("padded", "cut", "packed")
STREAM_WAYS = ("one after the other", "overlapped")
LEAST_COSINE = 0.999
ROUND_SECONDS = 0.5

GIGAFLOPS = {  # of one frame and one text at full length, as published with the models' sizes
    "PE-Core-T16-384": (9.45, 2.44),
    "PE-Core-S16-384": (31.3, 2.44),
    "PE-Core-B16-224": (35.6, 19.4),
    "PE-Core-L14-336": (384, 19.4),
    "PE-Core-G14-448": (4119, 68.6),
}


@dataclass(frozen=True)
class Row:
    """One line of the table; without a rate it was not run, and `why` says why not."""

    device: str
    model: str
    what: str
    rate: float | None = None
    unit: str = "images/s"
    share_of_matrix_rate: float | None = None
    why: str = ""

    def __str__(self) -> str:
        if self.rate is None:
            figures = f"{'not run':>12}            {'':8}  "
        else:
            share = self.share_of_matrix_rate
            figures = (
                f"{self.rate:12,.1f} {self.unit:10} {'' if share is None else f'{share:7.1%}':8}  "
            )
        why = f": {self.why}" if self.why else ""
        return f"{figures} {self.device:8} {self.model:16} {self.what}{why}"


# Counting


def frame_flops(config: VisionConfig) -> int:
    """Floating-point operations of one frame; a multiplication and its addition are two."""
    tokens, width = config.num_tokens, config.width
    patches = 2 * config.grid_size**2 * 3 * config.patch_size**2 * width
    pool = 2 * tokens * 2 * width**2 + 4 * tokens * width + 2 * 10 * width**2
    projection = 2 * width * (config.output_dim or 0)
    return (
        patches
        + config.depth * _block_flops(tokens, width, config.mlp_width)
        + (pool if config.pool == "attention" else 0)
        + projection
    )


def text_flops(config: TextConfig) -> int:
    """Floating-point operations of one text as long as the context."""
    blocks = config.depth * _block_flops(config.context_length, config.width, config.mlp_width)
    return blocks + 2 * config.width * config.output_dim


def _block_flops(tokens: int, width: int, mlp_width: int) -> int:
    linear = 4 * width**2 + 2 * width * mlp_width
    return 2 * tokens * linear + 4 * tokens**2 * width  # attention: q k, and weights times v


def check_flops() -> None:
    """Hold the counts to the published ones: half a per cent of one, as they are rounded."""
    for name, published in GIGAFLOPS.items():
        config = MODELS[name]
        assert config.text is not None
        counted = frame_flops(config.vision) / 1e9, text_flops(config.text) / 1e9
        for ours, theirs in zip(counted, published, strict=True):
            assert abs(ours / theirs - 1) < 0.005, (name, ours, theirs)


# Timing


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def rates(
    sides: Mapping[str, Callable[[], int]], device: torch.device, num_rounds: int
) -> dict[str, float]:
    """Items a second of each side, a median of rounds in which they take turns.

    Args:
        sides: each does some work and says how many items that was.
        device: what is waited for.
        num_rounds: rounds; one more, the first, is not counted.
    """
    measured: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(num_rounds + 1):
        for name, side in sides.items():
            wait(device)
            start = time.perf_counter()
            num_items = 0
            while True:
                num_items += side()
                wait(device)
                seconds = time.perf_counter() - start
                if seconds >= ROUND_SECONDS or device.type == "cpu":
                    break
            if number:
                measured[name].append(num_items / seconds)
    return {name: statistics.median(each) for name, each in measured.items()}


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second of a product of two large squares."""
    side = 8192 if device.type == "cuda" else 2048
    a, b = torch.randn(2, side, side, device=device).to(dtype)

    def product() -> int:
        for _ in range(10 if device.type == "cuda" else 1):
            a @ b
        return 10 if device.type == "cuda" else 1

    return rates({"product": product}, device, 5)["product"] * 2 * side**3


def check_same(name: str, embeddings: Sequence[Any]) -> None:
    first, *others = (
        torch.nn.functional.normalize(torch.as_tensor(each).float().cpu()) for each in embeddings
    )
    for other in others:
        lowest = float((first * other).sum(1).min())
        assert lowest >= LEAST_COSINE, f"{name}: cosine {lowest:.5f}"


# Rows


def frame_rows(
    encoder: PerceptionEncoder,
    weights: Path,
    tensors: Mapping[str, Tensor],
    paths: Sequence[str],
    num_rounds: int,
    matrix_flops: float,
) -> Iterator[Row]:
    """Frames that lie on the device."""
    config, device = encoder.config, encoder.device
    size, batch_size = config.vision.image_size, encoder.batch_size
    dtype = next(encoder.vision.parameters()).dtype
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (batch_size, 3, size, size), generator=generator)
    pixels = pixels.to(torch.uint8).to(device)
    computed: dict[str, Compute] = {}
    missing = {}
    with torch.inference_mode():
        for path in paths:
            try:
                compute = frames_through(path, encoder, weights, tensors)
                check_same(path, [encoder.vision(to_unit_range(pixels, dtype)), compute(pixels)])
            except Exception as error:  # another library fails as it likes
                if path.startswith("ours"):
                    raise
                missing[path] = " ".join(str(error).split())
            else:
                computed[path] = compute
        sides = {path: asked(compute, pixels) for path, compute in computed.items()}
        found = rates(sides, device, num_rounds)
    for path in paths:
        what = f"frames, {path}, {dtype}, batches of {batch_size}".replace("torch.", "")
        if path in missing:
            yield Row(device.type, config.name, what, why=missing[path])
            continue
        share = found[path] * frame_flops(config.vision) / matrix_flops
        yield Row(device.type, config.name, what, found[path], share_of_matrix_rate=share)


def asked(compute: Compute, pixels: Tensor) -> Callable[[], int]:
    def side() -> int:
        compute(pixels)
        return len(pixels)

    return side


def frames_through(
    path: str, encoder: PerceptionEncoder, weights: Path, tensors: Mapping[str, Tensor]
) -> Compute:
    """Frames uint8 (B, 3, H, W) on the device to embeddings there, by one of PATHS."""
    name, device = encoder.config.name, encoder.device
    dtype = next(encoder.vision.parameters()).dtype

    def through(tower: Callable[[Tensor], Tensor]) -> Compute:
        return lambda frames: tower(to_unit_range(frames, dtype))

    if path == "ours, eager":
        return through(encoder.vision)
    if path == "ours, compiled":
        # Not the same tower: a CPU has layers for eager towers that no compiler knows.
        other = PerceptionEncoder(
            name, weights=weights, device=str(device), dtype=encoder.dtype, compile=True
        )
        compile_blocks(other.vision.transformer)
        return in_full_batches(through(other.vision), encoder.batch_size)
    theirs = timm_model(name, tensors, device).to(dtype)
    if path == "timm, eager":
        return through(theirs)
    if name == G14:
        for block in theirs.blocks:
            block.compile(dynamic=False)
        return through(theirs)
    return torch.compile(through(theirs), dynamic=False)


def stream_rows(encoder: PerceptionEncoder, num_rounds: int, num_batches: int) -> Iterator[Row]:
    """Batches that lie in host memory."""
    batches = host_batches(encoder, num_batches)
    num_frames = sum(map(len, batches))

    def one_after_the_other() -> int:
        for batch in batches:
            encoder.encode_frames(batch)
        return num_frames

    def overlapped() -> int:
        for _ in encoder.encode_overlapped(batches):
            pass
        return num_frames

    given = np.concatenate(list(encoder.encode_overlapped(batches[:2])))
    wanted = np.concatenate([encoder.encode_frames(batch) for batch in batches[:2]])
    check_same(encoder.config.name, [given, wanted])
    sides = dict(zip(STREAM_WAYS, (one_after_the_other, overlapped), strict=True))
    for way, rate in rates(sides, encoder.device, num_rounds).items():
        yield Row(encoder.device.type, encoder.config.name, f"stream, {way}", rate)


def device_row(encoder: PerceptionEncoder, num_batches: int) -> Row:
    """Batches shared out; the seconds in which the processes start are not counted."""
    batches = host_batches(encoder, num_batches)
    num_warm = 4 * len(encoder.devices)
    stream = encoder.encode_stream([*batches[:1] * num_warm, *batches])
    for _ in range(num_warm):
        next(stream)
    start = time.perf_counter()
    num_frames = sum(len(embeddings) for embeddings in stream)
    rate = num_frames / (time.perf_counter() - start)
    return Row(encoder.device.type, encoder.config.name, devices_row(len(encoder.devices)), rate)


def devices_row(num_devices: int | str) -> str:
    return f"devices, {num_devices} of them, a process each"


def host_batches(encoder: PerceptionEncoder, num_batches: int) -> list[Any]:
    size = encoder.config.vision.image_size
    shape = (encoder.batch_size, 3, size, size)
    few = [np.random.default_rng(seed).integers(0, 256, shape, np.uint8) for seed in range(3)]
    return [few[number % 3] for number in range(num_batches)]


def text_rows(encoder: PerceptionEncoder, num_rounds: int, num_texts: int) -> Iterator[Row]:
    """Tokens, in batches as `encode_text` makes them."""
    config, device, tower = encoder.config.text, encoder.device, encoder.text
    assert config is not None
    rows = captions(num_texts, config)
    batch_size = min(num_texts, 1024)
    by_length = np.argsort(rows.argmax(axis=1), kind="stable")
    parts = [rows[each] for each in np.array_split(by_length, num_texts // batch_size)]
    ways = {"padded": padded, "cut": cut, "packed": packed}
    why = ""
    try:
        check_xformers(device)
        with torch.inference_mode():
            packed(tower, parts[0])
    except (ValueError, MissingExtra, EncoderError) as error:
        why = " ".join(str(error).split())
        del ways["packed"]

    def side(way: Callable[[TextTower, Any], Tensor]) -> Callable[[], int]:
        def run() -> int:
            for part in parts:
                way(tower, part)
            return num_texts

        return run

    with torch.inference_mode():
        check_same(encoder.config.name, [way(tower, parts[0]) for way in ways.values()])
        found = rates({name: side(way) for name, way in ways.items()}, device, num_rounds)
    for way in TEXT_WAYS:
        what = f"texts, {way}, batches of {batch_size}"
        reason = "" if way in found else why
        yield Row(device.type, encoder.config.name, what, found.get(way), "texts/s", why=reason)


def captions(num_texts: int, config: TextConfig) -> Any:
    """Rows of token ids; what the ids are does not matter to the time."""
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.normal(13, 4, num_texts).round().astype(int), 7, 32)
    rows = rng.integers(1, config.vocab_size - 2, (num_texts, config.context_length))
    rows[np.arange(num_texts), lengths - 1] = config.vocab_size - 1
    rows[np.arange(config.context_length) >= lengths[:, None]] = 0
    return rows


def padded(tower: TextTower, rows: Any) -> Tensor:
    """One more text, as long as the context, keeps the tower from cutting the others."""
    full = np.full((1, rows.shape[1]), 1)
    full[0, -1] = rows.max()
    return cut(tower, np.concatenate([rows, full]))[:-1]


def cut(tower: TextTower, rows: Any) -> Tensor:
    embeddings: Tensor = tower(torch.from_numpy(rows).to(tower.positional_embedding.device))
    return embeddings


def packed(tower: TextTower, rows: Any) -> Tensor:
    return encode_packed(tower, rows, xformers_attention)


# Runs


def rows_not_run() -> Iterator[Row]:
    """The rows of a GPU where there is none."""
    why = "it needs a GPU"
    for name in GPU_MODELS:
        for path in PATHS:
            yield Row("cuda", name, f"frames, {path}", why=why)
        for way in STREAM_WAYS:
            yield Row("cuda", name, f"stream, {way}", why=why)
    yield Row("cuda", B16, devices_row("all"), why="it needs several GPUs")
    for way in TEXT_WAYS:
        yield Row("cuda", B16, f"texts, {way}", unit="texts/s", why=why)


def gpu_rows(folder: Path, num_rounds: int, matrix_flops: float) -> Iterator[Row]:
    device = torch.device("cuda")
    for name in GPU_MODELS:
        path = folder / f"{name}.safetensors"
        tensors = random_weights(
            name, path, with_text=name == B16, device=device, dtype=torch.bfloat16
        )
        encoder = PerceptionEncoder(name, weights=path, device="cuda", dtype="bfloat16")
        yield from frame_rows(encoder, path, tensors, PATHS, num_rounds, matrix_flops)
        del tensors
        if name == B16:
            yield from text_rows(encoder, num_rounds, 8192)
            if torch.cuda.device_count() > 1:
                several = PerceptionEncoder(name, weights=path, device="cuda:*", dtype="bfloat16")
                yield device_row(several, 64)
            else:
                yield Row("cuda", B16, devices_row("all"), why="there is one GPU")
        yield from stream_rows(encoder, num_rounds, 3 if name == G14 else 16)
        del encoder
        torch.cuda.empty_cache()
        path.unlink()


def cpu_rows(folder: Path, num_rounds: int, matrix_flops: float) -> Iterator[Row]:
    """The same code with small models, and with few frames and texts."""
    for name, paths in ((T16, PATHS), (B16, PATHS[:1])):
        path = folder / f"{name}.safetensors"
        tensors = random_weights(name, path, with_text=name == T16)
        encoder = PerceptionEncoder(name, weights=path, device="cpu", batch_size=4)
        yield from frame_rows(encoder, path, tensors, paths, num_rounds, matrix_flops)
        if name == T16:
            yield from stream_rows(encoder, num_rounds, 4)
            yield from text_rows(encoder, num_rounds, 64)
            yield device_row(
                PerceptionEncoder(name, weights=path, device="cpu,cpu", batch_size=4), 8
            )


def ratios(rows: Sequence[Row]) -> dict[str, float]:
    """On a GPU: ours compiled by ours eager and by timm, and the ways of texts and streams."""

    def rate(model: str, what: str) -> float | None:
        ours = (row for row in rows if (row.device, row.model) == ("cuda", model))
        return next((row.rate for row in ours if row.what.startswith(what)), None)

    pairs = {}
    for name in GPU_MODELS:
        short = name.split("-")[2].lower()
        ours = rate(name, "frames, ours, compiled")
        pairs[f"{short}_compiled_over_eager"] = ours, rate(name, "frames, ours, eager")
        pairs[f"{short}_compiled_over_timm_eager"] = ours, rate(name, "frames, timm, eager")
        pairs[f"{short}_compiled_over_timm_compiled"] = ours, rate(name, "frames, timm, compiled")
        pairs[f"{short}_stream_overlapped_over_not"] = (
            rate(name, "stream, overlapped"),
            rate(name, "stream, one"),
        )
    for way in ("padded", "cut"):
        pairs[f"texts_packed_over_{way}"] = rate(B16, "texts, packed"), rate(B16, f"texts, {way}")
    return {key: round(a / b, 2) for key, (a, b) in pairs.items() if a and b}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    best = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=["cuda", "cpu"], default=best)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, help="a file for the JSON as well")
    options = parser.parse_args()
    check_flops()
    device = torch.device(options.device)
    flops = matrix_rate(device, torch.bfloat16)
    name = torch.cuda.get_device_name(device) if options.device == "cuda" else machine()
    print(f"{name}: {flops / 1e12:,.2f} TFLOP/s in bfloat16 products of matrices")
    rows: list[Row] = []

    def result() -> dict[str, Any]:
        return {
            "device": name,
            "machine": machine(),
            "torch": torch.__version__,
            "matrix_tflops": round(flops / 1e12, 2),
            "rows_not_run": sum(row.rate is None for row in rows),
            **ratios(rows),
        }

    with tempfile.TemporaryDirectory() as folder:
        run = gpu_rows if options.device == "cuda" else cpu_rows
        for row in run(Path(folder), options.rounds, flops):
            print(row, flush=True)
            rows.append(row)
            if options.out:  # each time: a GPU that is lent may be taken away
                content = result() | {"rows": list(map(asdict, rows))}
                options.out.write_text(json.dumps(content, indent=1) + "\n")
    if options.device == "cpu":
        for row in rows_not_run():
            print(row)
            rows.append(row)
    print(json.dumps(result()))


if __name__ == "__main__":
    main()
