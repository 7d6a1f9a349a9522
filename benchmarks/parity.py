"""The encoder gives what open_clip, timm, birder and transformers give, with the same weights.

    make parity             or, in .venv-parity:
    python benchmarks/parity.py [--models T S] [--out FILE]

Random weights under the names of the release are put into each library's own model. What that gives
is compared with what ours gives from the file that the library itself saves, in its own layout:
image and text embeddings, pooled vectors before the projection, tokens and feature maps, each to
1e-4 in float32. The tower's hash from that file must be the one from Meta's file. birder's files
have no projection, and transformers' neither: they must be refused for embeddings, and give the
same ones with Meta's file as the projection: rows with a star.

Pictures are compared at the size that a model was trained at: at others timm, open_clip and birder
resample the position table, and timm the rotary positions too, in another way than the reference
does. Models of sizes L and G have their full width and three blocks. PE-Lang's -Tiling weights are
of the same shape as those without, and are not tried apart.
"""

import argparse
import functools
import gc
import json
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import peers
import torch
from processes import machine
from torch import Tensor

from perception_search.encoder.config import MODELS, ModelConfig
from perception_search.encoder.layouts import TowerName
from perception_search.encoder.tokenizer import tokenize
from perception_search.encoder.towers import to_unit_range
from perception_search.encoder.weights import load_tower, tower_sha256
from perception_search.errors import WeightsMismatch

LIMIT = 1e-4
DEPTHS = {"T": None, "S": None, "B": None, "L": 3, "G": 3}  # blocks of a tower; None for all
TEXTS = ["a dog", "a photo of two cats & a caf\u00e9, \u732b", "the quick brown fox " * 5]
WITHOUT_PROJECTION = ("birder", "transformers")  # the files that they write
PACKAGES = ("torch", "open_clip_torch", "timm", "birder", "transformers", "torchvision")


@dataclass
class Row:
    """One comparison; what is no number is equal or not."""

    model: str
    library: str
    file: str
    quantity: str
    is_equal: bool
    max_difference: float | None = None
    typical_value: float | None = None
    HEAD: ClassVar = (
        f"{'model':20}{'library':14}{'file':31}{'quantity':24}{'difference':>10}{'rms':>8}"
    )

    def __str__(self) -> str:
        number = "" if self.max_difference is None else f"{self.max_difference:.1e}"
        typical = "" if self.typical_value is None else f"{self.typical_value:.2f}"
        verdict = "equal" if self.is_equal else "DIFFERS"
        return (
            f"{self.model:20}{self.library:14}{self.file:31}{self.quantity:24}"
            f"{number:>10}{typical:>8}  {verdict}"
        )


@dataclass
class Case:
    """A model to be compared: its weights by the names of the release, and what it is shown."""

    config: ModelConfig
    tensors: Mapping[str, Tensor]
    file: Path  # those weights
    folder: Path  # for what the libraries save
    pixels: Tensor  # uint8 (2, 3, H, W)

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def normalised(self) -> Tensor:
        """The pixels as a library's transform gives them, in -1..1."""
        return (self.pixels.float() / 255 - 0.5) / 0.5


@dataclass
class Peer:
    """What a library gives, and the files that it wrote of its model."""

    library: str
    outputs: Mapping[str, Tensor]
    files: list[Path]


def through_open_clip(case: Case) -> Peer | None:
    if case.name not in peers.OPEN_CLIP_NAMES:
        return None
    model = peers.open_clip_model(case.name, case.tensors)
    open_clip = peers.import_open_clip()
    from open_clip.push_to_hf_hub import save_for_hf

    name = peers.OPEN_CLIP_NAMES[case.name]
    tokenizer = open_clip.get_tokenizer(name)
    trunk = model.visual.trunk
    tokens = trunk.forward_features(case.normalised)
    outputs = {
        "image embeddings": model.encode_image(case.normalised),
        "text embeddings": model.encode_text(tokenizer(TEXTS)),
        "scale of the logits": model.logit_scale.exp(),
        "tokens": tokens,
        "pooled vectors": trunk.forward_head(tokens, pre_logits=True),
    }
    folder = case.folder / "open_clip"
    without_tokenizer = argparse.Namespace(save_pretrained=lambda folder: None)
    save_for_hf(model, without_tokenizer, open_clip.get_model_config(name), folder)
    return Peer("open_clip", outputs, _weights_in(folder))


def through_timm(case: Case) -> Peer:
    model = peers.timm_model(case.name, case.tensors)
    from timm.models import save_for_hf

    tokens = model.forward_features(case.normalised)
    [early] = model.forward_intermediates(
        case.normalised, [1], output_fmt="NLC", intermediates_only=True
    )
    outputs = {"tokens": tokens, "tokens of block 1": early}
    if case.config.dim:
        outputs["pooled vectors"] = model.forward_head(tokens, pre_logits=True)
        outputs["image embeddings"] = model(case.normalised)
    folder = case.folder / "timm"
    save_for_hf(model, str(folder), safe_serialization="both")
    return Peer("timm", outputs, _weights_in(folder))


def through_transformers(case: Case) -> Peer:
    model = peers.transformers_model(case.name, case.tensors)
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    given = model(case.normalised)
    outputs = {"tokens": given.last_hidden_state}
    if case.config.dim:
        outputs["pooled vectors"] = given.pooler_output
    folder = case.folder / "transformers"
    model.save_pretrained(folder)
    return Peer("transformers", outputs, _weights_in(folder))


def through_perception_lm(case: Case) -> Peer | None:
    if case.name not in peers.PERCEPTION_LM_NAMES:
        return None
    tower = peers.perception_lm_tower(case.name, case.tensors)
    tokens = tower(case.normalised).last_hidden_state
    return Peer("Perception LM", {"tokens": tokens}, [])


def through_birder(case: Case) -> Peer | None:
    if case.name not in peers.BIRDER_NAMES:
        return None
    model = peers.birder_model(case.name, case.tensors)
    from birder.common import fs_ops
    from birder.conf import settings

    [feature_map] = model.detection_features(case.normalised).values()
    outputs = {"tokens": model.forward_features(case.normalised), "feature map": feature_map}
    if case.config.dim:
        outputs["pooled vectors"] = model.embedding(case.normalised)
    size = case.config.vision.image_size
    signature = {
        "inputs": [{"data_shape": [0, 3, size, size]}],
        "outputs": [{"data_shape": [0, 0]}],
    }
    half = (0.5, 0.5, 0.5)
    colours = {"mean": half, "std": half}
    folder = case.folder / "birder"
    folder.mkdir()
    model.task = "image_classification"
    fs_ops.save_st(model, folder / "birder.safetensors", model.task, {}, signature, colours)
    settings.MODELS_DIR = folder
    fs_ops.checkpoint_model("birder", 0, model, signature, {}, colours, None, None, None, None)
    return Peer("birder", outputs, _weights_in(folder))


LIBRARIES: tuple[Callable[[Case], Peer | None], ...] = (
    through_open_clip,
    through_timm,
    through_transformers,
    through_perception_lm,
    through_birder,
)


def _weights_in(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix in {".safetensors", ".bin", ".pt"})


def our_output(quantity: str, case: Case, file: Path, projection: Path | None = None) -> Tensor:
    """What ours gives from a file."""
    exact: Any = {"device": torch.device("cpu"), "dtype": torch.float32}
    if quantity in ("text embeddings", "scale of the logits"):
        text = load_tower(file, case.config, "text", **exact)
        if quantity == "scale of the logits":
            return text.logit_scale.exp()
        return text(torch.from_numpy(tokenize(TEXTS, text.config.context_length)))
    pixels = to_unit_range(case.pixels, torch.float32)
    if quantity == "image embeddings":
        return load_tower(file, case.config, "vision", projection=projection, **exact)(pixels)
    features = replace(case.config, vision=replace(case.config.vision, output_dim=None))
    tower = load_tower(file, features, "vision", **exact)
    if quantity == "pooled vectors":
        return tower(pixels)
    if quantity == "tokens":
        return tower.features(pixels)
    if quantity == "tokens of block 1":
        return tower.features(pixels, norm=False, layer=1, strip_class_token=True)
    assert quantity == "feature map", quantity
    tokens = tower.features(pixels, norm=False, strip_class_token=True)  # (N, Gh * Gw, D)
    side = tower.config.grid_size
    return tokens.transpose(1, 2).unflatten(2, (side, side))  # (N, D, Gh, Gw)


def compare(case: Case, peer: Peer) -> Iterator[Row]:
    """A library with ours, from each file that it wrote; from Meta's if it wrote none."""
    for file in peer.files or [case.file]:
        row = functools.partial(Row, case.name, peer.library, file.name)
        for quantity, theirs in peer.outputs.items():
            yield row(quantity, *distance(our_output(quantity, case, file), theirs))
        if case.config.text is None or peer.library not in WITHOUT_PROJECTION:
            yield row("hash of vision", has_same_hash(case, "vision", file))
        else:
            yield row("refused for embeddings", is_refused(case, file))
            ours = our_output("image embeddings", case, file, case.file)
            expected = our_output("image embeddings", case, case.file)
            yield row("image embeddings *", *distance(ours, expected))
            yield row("hash of vision *", has_same_hash(case, "vision", file, case.file))
        if peer.library == "open_clip":
            yield row("hash of text", has_same_hash(case, "text", file))
        elif case.config.text:
            yield row("hash of text *", has_same_hash(case, "text", file, case.file))


def distance(ours: Tensor, theirs: Tensor) -> tuple[bool, float, float]:
    """Whether they are equal to 1e-4, the largest difference, and the root mean square."""
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    difference = float((ours.double() - theirs.double()).abs().max())
    return difference <= LIMIT, difference, float(theirs.double().pow(2).mean().sqrt())


def has_same_hash(case: Case, tower: TowerName, file: Path, projection: Path | None = None) -> bool:
    """Whether a tower's hash from this file is the one from Meta's."""
    theirs = tower_sha256(file, case.config, tower, projection=projection)
    return bool(theirs) and theirs == tower_sha256(case.file, case.config, tower)


def is_refused(case: Case, file: Path) -> bool:
    """Whether a file without projection is refused for embeddings, with the sentence that helps."""
    try:
        our_output("image embeddings", case, file)
    except WeightsMismatch as error:
        return "without the projection" in str(error)
    return False


def rows_of(name: str) -> Iterator[Row]:
    """One model through each library that has it; one library's model in memory at a time."""
    depth = DEPTHS[size_letter(name)]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PERCEPTION_SEARCH_CACHE"] = folder  # the hashes are to be computed
        file = Path(folder) / f"{name}.safetensors"
        tensors = peers.random_weights(name, file, with_text=True, depth=depth)
        config = peers.shallow(MODELS[name], depth)
        case = Case(config, tensors, file, Path(folder), pixels_of(config.vision.image_size))
        for through in LIBRARIES:
            peer = through(case)
            gc.collect()
            if peer is not None:
                yield from compare(case, peer)
                for written in peer.files:
                    written.unlink()


def pixels_of(size: int) -> Tensor:
    """uint8 (2, 3, size, size): noise, and a smooth picture."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.randint(0, 256, (1, 3, size, size), generator=generator)
    coarse = torch.randint(0, 256, (1, 3, 8, 8), generator=generator).float()
    smooth = torch.nn.functional.interpolate(coarse, (size, size), mode="bilinear")
    return torch.cat([noise, smooth.long()]).to(torch.uint8)


def size_letter(name: str) -> str:
    return name.split("-")[2][0]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=list(DEPTHS), default=list(DEPTHS))
    parser.add_argument("--out", type=Path, help="a file for the JSON as well, with every row")
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # they tell of models without pretrained weights
    rows = []
    print(Row.HEAD)
    with torch.inference_mode():
        for name in peers.TIMM_NAMES:
            if size_letter(name) in options.models:
                for row in rows_of(name):
                    print(row, flush=True)
                    rows.append(row)
    num_differing = sum(not row.is_equal for row in rows)
    result = {
        "max_difference": max(row.max_difference for row in rows if row.max_difference is not None),
        "limit": LIMIT,
        "num_comparisons": len(rows),
        "num_differing": num_differing,
        "models": sorted({row.model for row in rows}),
        "versions": {package: version(package) for package in PACKAGES},
        "machine": machine(),
    }
    if options.out:
        full = result | {"rows": [asdict(row) for row in rows]}
        options.out.write_text(json.dumps(full, indent=1) + "\n")
    print(json.dumps(result))
    sys.exit(num_differing > 0)


if __name__ == "__main__":
    main()
