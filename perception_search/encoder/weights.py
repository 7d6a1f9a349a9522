"""Finds a model's weights file, reads one tower out of it and names its tensors by hash.

Knows file formats and tensor names; computes nothing with the tensors. A hash that is cached is
had without torch.
"""

import contextlib
import hashlib
import json
import os
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from perception_search.encoder.config import ModelConfig
from perception_search.errors import DownloadError, WeightsMismatch, WeightsNotFound

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from perception_search.encoder.towers import TextTower, VisionTower

TowerName = Literal["vision", "text"]

_SUFFIXES = (".safetensors", ".pt")
_VISION_PREFIX = "visual."
_AS_IN_FILE = {"token_embedding.weight", "logit_scale"}
_OTHER_LAYOUTS = {  # a tensor that only this layout has -> whose layout it is
    "visual.trunk.patch_embed.proj.weight": "open_clip's",
    "patch_embed.proj.weight": "timm's",
    "conv_proj.weight": "birder's",
    "model.vision_tower.timm_model.patch_embed.proj.weight": "transformers'",
}


def find_weights(name: str, weights: str | Path | None = None, *, local_only: bool = False) -> Path:
    """The file that holds the weights of a model.

    Looked for in this order: `weights`, which is a file or a folder that holds
    `<name>.safetensors` or `<name>.pt`; such a folder named by the environment variable
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
        found = path if path.is_file() else _in_folder(path, name)
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
) -> "VisionTower": ...
@overload
def load_tower(
    path: Path,
    config: ModelConfig,
    tower: Literal["text"],
    *,
    device: "torch.device",
    dtype: "torch.dtype",
) -> "TextTower": ...
def load_tower(
    path: Path,
    config: ModelConfig,
    tower: TowerName,
    *,
    device: "torch.device",
    dtype: "torch.dtype",
) -> "VisionTower | TextTower":
    """One tower of a weights file, for inference; the other's bytes are not read.

    On a CPU, tensors that already have `dtype` stay mapped from the file. Two keep the dtype of the
    file: the token embedding, of which a query reads a few rows, and the scale of the logits.

    Raises:
        WeightsMismatch: a tensor is missing, extra or of the wrong shape, or there is no such
            tower in the file.
    """
    module: VisionTower | TextTower = _empty_tower(config, tower)
    tensors = tower_tensors(path, config, tower)
    if not tensors:
        raise WeightsMismatch(f"{path} holds no {tower} tower of {config.name}, which is needed")
    cast = {
        name: tensor.to(device, tensor.dtype if name in _AS_IN_FILE else dtype)
        for name, tensor in tensors.items()
    }
    module.load_state_dict(cast, strict=True, assign=True)
    module.requires_grad_(False).eval()
    return module


def tower_tensors(path: Path, config: ModelConfig, tower: TowerName) -> dict[str, "Tensor"]:
    """The tensors of one tower by their released names, sorted, mapped from the file, not read.

    Empty where a file has nothing of this tower.

    Raises:
        WeightsMismatch: the tensors are not those of the model; the message names the first.
    """
    prefix, tensors = _read(path, tower)
    if not tensors:
        return {}
    empty = _empty_tower(config, tower).state_dict()
    expected = {name: tuple(tensor.shape) for name, tensor in empty.items()}
    problems = [f"{prefix}{name} is missing" for name in expected if name not in tensors]
    problems += [f"{prefix}{name} is one too many" for name in tensors if name not in expected]
    for name, tensor in tensors.items():
        shape = tuple(tensor.shape)
        if shape != expected.get(name, shape):
            problems.append(f"{prefix}{name} has shape {shape}, not {expected[name]}")
        elif not tensor.is_floating_point():
            problems.append(f"{prefix}{name} is of {tensor.dtype}, not of a floating-point type")
    if problems:
        others = f", and {len(problems) - 1} more of its tensors differ" if problems[1:] else ""
        raise WeightsMismatch(
            f"{path} is not the {tower} tower of {config.name}: {problems[0]}{others}"
        )
    return dict(sorted(tensors.items()))


def tower_sha256(path: Path, config: ModelConfig, tower: TowerName) -> str:
    """SHA-256 over a tower's tensors, hexadecimal; empty where the file has no such tower.

    Hashed are, in the order of the names: name, shape and the values as little-endian float32.
    So the hash is the same for every file layout and container. It is computed once for a file
    (path, size, modification time) and kept in the user's cache folder.

    Raises:
        WeightsMismatch: the tensors are not those of the model.
    """
    stat = path.stat()
    key = f"{config.name} {tower} {stat.st_size} {stat.st_mtime_ns} {path.resolve()}"
    cache = _read_cache()
    if key not in cache:
        tensors = tower_tensors(path, config, tower)
        cache[key] = hash_tensors(tensors) if tensors else ""
        _write_cache(cache)
    return cache[key]


def hash_tensors(tensors: Mapping[str, "Tensor"]) -> str:
    """SHA-256, hexadecimal, over names, shapes and little-endian float32 values, in name order."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        shape = "x".join(str(length) for length in tensor.shape)
        digest.update(f"{name} {shape}\n".encode())
        values = tensor.detach().cpu().float().contiguous().numpy()
        digest.update(values.astype("<f4", copy=False).data)
    return digest.hexdigest()


def _in_folder(folder: Path, name: str) -> Path | None:
    candidates = (folder / (name + suffix) for suffix in _SUFFIXES)
    return next((path for path in candidates if path.is_file()), None)


def _empty_tower(config: ModelConfig, tower: TowerName) -> Any:
    """The tower without memory for its parameters: nothing is initialised twice."""
    import torch

    from perception_search.encoder.towers import TextTower, VisionTower

    with torch.device("meta"):
        return VisionTower(config.vision) if tower == "vision" else TextTower(config.text)


def _read(path: Path, tower: TowerName) -> tuple[str, dict[str, "Tensor"]]:
    """What stands before a tower's names in the file, and its tensors by name, memory-mapped."""
    try:
        if path.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(path, framework="pt") as file:
                prefix, keys = _select(path, file.keys(), tower)
                return prefix, {name: file.get_tensor(key) for name, key in keys.items()}
        state = _load_pickle(path)
        prefix, keys = _select(path, state, tower)
        return prefix, {name: state[key] for name, key in keys.items()}
    except WeightsMismatch:
        raise
    except Exception as error:  # a damaged file raises anything
        size_bytes = path.stat().st_size
        raise WeightsMismatch(
            f"{path} ({size_bytes} bytes) cannot be read as a weights file, which is a "
            f"safetensors file or a torch file that holds tensors only: {error}"
        ) from error


def _load_pickle(path: Path) -> dict[str, "Tensor"]:
    import torch

    # Only torch's zip format can be mapped. Nothing but tensors is ever unpickled.
    state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    for wrapper in ("state_dict", "weights"):
        if isinstance(state, dict) and wrapper in state:
            state = state[wrapper]
            break
    if not isinstance(state, dict) or not state:
        raise WeightsMismatch(f"{path} holds {type(state).__name__}, not tensors by name")
    odd = next((key for key, value in state.items() if not isinstance(value, torch.Tensor)), None)
    if odd is not None:
        raise WeightsMismatch(f"{path}: {odd} is {type(state[odd]).__name__}, not a tensor")
    return state


def _select(path: Path, keys: Iterable[str], tower: TowerName) -> tuple[str, dict[str, str]]:
    """What stands before a tower's names in a file, and its names -> the keys of the file."""
    keys = {key.removeprefix("module."): key for key in keys}
    for telltale, whose in _OTHER_LAYOUTS.items():
        if telltale in keys:
            raise WeightsMismatch(
                f"{path} names its tensors in {whose} way ({telltale}); expected is the file as "
                "Meta released it, facebook/<name> on the hub, with visual.conv1.weight"
            )
    if any(key.startswith(_VISION_PREFIX) for key in keys):
        vision = {
            name.removeprefix(_VISION_PREFIX): key
            for name, key in keys.items()
            if name.startswith(_VISION_PREFIX)
        }
        text = {name: key for name, key in keys.items() if not name.startswith(_VISION_PREFIX)}
        return (_VISION_PREFIX, vision) if tower == "vision" else ("", text)
    only: TowerName = "text" if "token_embedding.weight" in keys else "vision"
    return "", keys if tower == only else {}


def _cache_path() -> Path:
    own = os.environ.get("PERCEPTION_SEARCH_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return (Path(own).expanduser() if own else Path(base, "perception_search")) / "weights.json"


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
