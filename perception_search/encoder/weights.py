"""Finds a model's weights file, reads one tower out of it and names its tensors by hash.

Knows which tensors a model has; computes nothing with them. A hash that is cached is had without
torch.
"""

import contextlib
import hashlib
import itertools
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from perception_search.assets import cache_folder
from perception_search.encoder.checkpoint import Checkpoint
from perception_search.encoder.config import MODELS, ModelConfig
from perception_search.encoder.layouts import Layout, Part, TowerName, recognise
from perception_search.encoder.names import names_elsewhere
from perception_search.errors import DownloadError, WeightsMismatch, WeightsNotFound

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from perception_search.encoder.towers import TextTower, VisionTower

_SUFFIXES = (".safetensors", ".pt")
_SNAPSHOT_FILES = (  # of a folder fetched from the hub as it is: open_clip's and timm's names
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
    "model.safetensors",
    "pytorch_model.bin",
)
_AS_IN_FILE = {"token_embedding.weight", "logit_scale"}
_MAPPED_BYTES = 64 * 2**20  # read from a mapped file before it is mapped anew


def find_weights(name: str, weights: str | Path | None = None, *, local_only: bool = False) -> Path:
    """The file that holds the weights of a model.

    Looked for in this order: `weights`, which is a file or a folder that holds
    `<name>.safetensors` or `<name>.pt`, by any name the model goes by, or a folder as it was
    fetched from the hub; such a folder named by the environment variable
    PERCEPTION_SEARCH_WEIGHTS; the hub, `facebook/<name>`.

    Args:
        name: the model's name as released.
        weights: if given, nothing else is tried.
        local_only: do not download; what the hub's cache holds is used.

    Raises:
        WeightsNotFound: the message lists what was tried.
    """
    if weights is not None:
        path = Path(weights).expanduser()
        found = path if path.is_file() else _in_folder(path, name) or _in_snapshot(path)
        if found is None:
            raise WeightsNotFound(
                f"{path} holds no weights of {name}; give a file, or a folder that holds "
                + " or ".join(name + suffix for suffix in _SUFFIXES)
            )
        return found
    folder = os.environ.get("PERCEPTION_SEARCH_WEIGHTS")
    if folder and (found := _in_folder(Path(folder).expanduser(), name)):
        return found

    from perception_search.assets import hub_file

    try:
        return hub_file(f"facebook/{name}", f"{name}.pt", local_only=local_only)
    except DownloadError as error:
        raise WeightsNotFound(
            f"no weights of {name}: PERCEPTION_SEARCH_WEIGHTS is "
            + (f"{folder}, which holds none" if folder else "not set")
            + f", and the hub gave none ({error}). Put {name}.safetensors or {name}.pt into a "
            "folder and name it in PERCEPTION_SEARCH_WEIGHTS, or pass weights=<file>"
        ) from error


@overload
def load_tower(
    path: Path,
    config: ModelConfig,
    tower: Literal["vision"],
    *,
    device: "torch.device",
    dtype: "torch.dtype",
    projection: Path | None = None,
) -> "VisionTower": ...
@overload
def load_tower(
    path: Path,
    config: ModelConfig,
    tower: Literal["text"],
    *,
    device: "torch.device",
    dtype: "torch.dtype",
    projection: Path | None = None,
) -> "TextTower": ...
def load_tower(
    path: Path,
    config: ModelConfig,
    tower: TowerName,
    *,
    device: "torch.device",
    dtype: "torch.dtype",
    projection: Path | None = None,
) -> "VisionTower | TextTower":
    """One tower of a weights file, for inference; the other's bytes are not read.

    On a CPU, tensors that already have `dtype` stay mapped from the file. Two keep the dtype of the
    file: the token embedding, of which a query reads a few rows, and the scale of the logits.

    Args:
        path: a file in any of the five layouts.
        config: what it must hold.
        tower: which.
        device: where the tensors go.
        dtype: of the tensors.
        projection: a file that has what `path` lacks: the projection, or the text tower.

    Raises:
        WeightsMismatch: a tensor is missing, extra or of the wrong shape, or there is no such
            tower in the file.
    """
    module: VisionTower | TextTower = _empty_tower(config, tower)
    cast = {
        name: tensor.to(device, tensor.dtype if name in _AS_IN_FILE else dtype)
        for name, tensor in tower_tensors(path, config, tower, projection=projection)
    }
    if not cast:
        raise WeightsMismatch(
            f"{path} holds no {tower} tower of {config.name}, which is needed; a file that has "
            "what it lacks can be given as the projection: projection=FILE, --projection FILE"
        )
    module.load_state_dict(cast, strict=True, assign=True)
    module.requires_grad_(False).eval()
    return module


def tower_tensors(
    path: Path, config: ModelConfig, tower: TowerName, *, projection: Path | None = None
) -> "Iterator[tuple[str, Tensor]]":
    """The tensors of one tower with their released names and shapes, in the order of the names.

    They are mapped from the file where it can be mapped. Whoever does not keep them holds little
    memory: the file is mapped anew now and then. Nothing where a file has nothing of this tower.

    Raises:
        WeightsMismatch: the tensors are not those of the model; the message names the first.
    """
    parts = _parts(path, config, tower, projection)
    _check(config, tower, parts)
    num_bytes = 0
    for name, (file, part) in sorted(parts.items()):
        tensor = part.make(*map(file.tensor, part.keys))
        yield name, tensor
        num_bytes += tensor.nbytes
        if num_bytes > _MAPPED_BYTES:
            file.reopen()
            num_bytes = 0


def tower_sha256(
    path: Path, config: ModelConfig, tower: TowerName, *, projection: Path | None = None
) -> str:
    """SHA-256 over a tower's tensors, hexadecimal; empty where the file has no such tower.

    Hashed are, in the order of the names: name, shape and the values as little-endian float32.
    So the hash is the same for every file layout and container. It is computed once for a file
    (path, size, modification time) and kept in the user's cache folder.

    Raises:
        WeightsMismatch: the tensors are not those of the model.
    """
    files = [_file_key(each) for each in (path, projection) if each is not None]
    key = f"{config.name} {tower} {' + '.join(files)}"
    cache = _read_cache()
    if key not in cache:
        tensors = tower_tensors(path, config, tower, projection=projection)
        first = next(tensors, None)
        cache[key] = hash_tensors(itertools.chain([first], tensors)) if first else ""
        _write_cache(cache)
    return cache[key]


def hash_tensors(tensors: "Iterable[tuple[str, Tensor]]") -> str:
    """SHA-256, hexadecimal, over names, shapes and little-endian float32 values, as they come."""
    digest = hashlib.sha256()
    for name, tensor in tensors:
        shape = "x".join(str(length) for length in tensor.shape)
        digest.update(f"{name} {shape}\n".encode())
        values = tensor.detach().cpu().float().contiguous().numpy()
        digest.update(values.astype("<f4", copy=False).data)
    return digest.hexdigest()


def _in_folder(folder: Path, name: str) -> Path | None:
    names = (name, *names_elsewhere(name))
    candidates = (folder / (each + suffix) for each in names for suffix in _SUFFIXES)
    return next((path for path in candidates if path.is_file()), None)


def _in_snapshot(folder: Path) -> Path | None:
    candidates = (folder / name for name in _SNAPSHOT_FILES)
    return next((path for path in candidates if path.is_file()), None)


def _empty_tower(config: ModelConfig, tower: TowerName) -> Any:
    """The tower without memory for its parameters: nothing is initialised twice."""
    import torch

    from perception_search.encoder.towers import TextTower, VisionTower

    with torch.device("meta"):
        if tower == "vision":
            return VisionTower(config.vision)
        if config.text is None:
            raise WeightsMismatch(f"{config.name} has no text tower: it gives features of pictures")
        return TextTower(config.text)


_Parts = dict[str, tuple[Checkpoint, Part]]


def _parts(path: Path, config: ModelConfig, tower: TowerName, projection: Path | None) -> _Parts:
    """A tower's tensors by their released names, each with its file."""
    file, layout = _opened(path)
    parts = {name: (file, part) for name, part in layout.towers[tower].items()}
    if tower == "text":
        if parts or projection is None:
            return parts
        other, theirs = _opened(projection)
        return {name: (other, part) for name, part in theirs.towers["text"].items()}
    if config.vision.output_dim is None and config.vision.pool != "none":
        parts.pop("proj", None)  # features before the projection are asked for
    if config.vision.output_dim is None or "proj" in parts or not parts:
        return parts
    features = replace(config, vision=replace(config.vision, output_dim=None))
    _check(features, tower, parts)  # what is there is this model's, so that this may be said:
    if projection is None:
        raise WeightsMismatch(
            f"{path} is {config.name} in {layout.name} layout, without the projection: it gives "
            "features. For embeddings and text search name a file that holds Meta's proj: "
            "projection=FILE, --projection FILE"
        )
    other, theirs = _opened(projection)
    if "proj" not in theirs.towers["vision"]:
        raise WeightsMismatch(
            f"{projection} holds no projection, nor does {path}; {config.name} as Meta, open_clip "
            "or timm have it does"
        )
    return parts | {"proj": (other, theirs.towers["vision"]["proj"])}


def _opened(path: Path) -> tuple[Checkpoint, Layout]:
    file = Checkpoint(path)
    try:
        layout = recognise(file.keys)
    except WeightsMismatch as error:
        raise WeightsMismatch(f"{path} holds {error}") from error
    for key in layout.zeros:
        if file.tensor(key).any():
            raise WeightsMismatch(
                f"{path}: {key} is not zero; Perception Encoder's projection has no bias, so this "
                "is another model"
            )
    return file, layout


def _check(config: ModelConfig, tower: TowerName, parts: _Parts) -> None:
    if not parts:
        return
    first, _ = next(iter(parts.values()))
    shapes, extra, others = {}, [], []
    expected = _shapes(config, tower)
    for name, (file, part) in parts.items():
        tensor = part.make(*(file.tensor(key).to("meta") for key in part.keys))
        shapes[name] = shape = tuple(tensor.shape)
        key = part.keys[0]
        if name not in expected:
            extra.append((file.path, f"{key} is one too many"))
        elif shape != expected[name]:
            others.append((file.path, f"{key} has shape {shape}, not {expected[name]}"))
        if not tensor.is_floating_point():
            dtype = f"{key} is of {tensor.dtype}, not of a floating-point type"
            others.append((file.path, dtype))
    missing = [(first.path, f"{name} is missing") for name in expected if name not in shapes]
    problems = missing + extra + others
    if problems:
        path, problem = problems[0]
        more = f", and {len(problems) - 1} more of its tensors differ" if problems[1:] else ""
        names = [each.name for each in MODELS.values() if _is_that_of(each, tower, shapes)]
        instead = f"; these are the tensors of {' or '.join(names)}" if names else ""
        raise WeightsMismatch(
            f"{path} is not the {tower} tower of {config.name}: {problem}{more}{instead}"
        )


def _shapes(config: ModelConfig, tower: TowerName) -> dict[str, tuple[int, ...]]:
    state = _empty_tower(config, tower).state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def _is_that_of(
    model: ModelConfig, tower: TowerName, shapes: Mapping[str, tuple[int, ...]]
) -> bool:
    """Whether these are a model's shapes, with or without its projection."""
    if tower == "text" and model.text is None:
        return False
    theirs = _shapes(model, tower)
    return theirs == {"proj": theirs.get("proj"), **shapes} or theirs == shapes


def _file_key(path: Path) -> str:
    stat = path.stat()
    return f"{stat.st_size} {stat.st_mtime_ns} {path.resolve()}"


def _cache_path() -> Path:
    return cache_folder() / "weights.json"


def _read_cache() -> dict[str, str]:
    try:
        cache = json.loads(_cache_path().read_bytes())
    except (OSError, ValueError):  # none yet, or damaged: hashes are computed again
        return {}
    return cache if isinstance(cache, dict) else {}


def _write_cache(cache: Mapping[str, str]) -> None:
    path = _cache_path()
    with contextlib.suppress(OSError):  # a cache that cannot be written is done without
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            json.dump(cache, file, indent=0)
        Path(file.name).replace(path)
