"""Finds a model's files, on disk or on the hub, and reads its configuration and tensors.

Tensors come by the names of transformers' `PerceptionLMForConditionalGeneration`, whose vision
tower's are those of the release. Adapters (LoRA) are added into the tensors they change.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perception_search.encoder.checkpoint import Checkpoint
from perception_search.encoder.layouts import recognise
from perception_search.errors import DownloadError, WeightsMismatch, WeightsNotFound

if TYPE_CHECKING:
    from torch import Tensor

MODELS = ("Perception-LM-1B", "Perception-LM-3B", "Perception-LM-8B")
"""As released; on the hub each is facebook/<name>."""

_CONFIG, _INDEX, _ONE_FILE = "config.json", "model.safetensors.index.json", "model.safetensors"
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
_OPTIONAL = ("chat_template.jinja", "chat_template.json", "special_tokens_map.json")
_ADAPTER_CONFIG, _ADAPTER = "adapter_config.json", "adapter_model.safetensors"
_VISION = "model.vision_tower."
_MOVED = (  # names before transformers 4.52 put the parts under `model.`
    (r"^language_model\.lm_head\.", "lm_head."),
    (r"^language_model\.model\.", "model.language_model."),
    (r"^(vision_tower|multi_modal_projector)\.", r"model.\1."),
)
_LORA = re.compile(r"^(?:base_model\.model\.)?(.+)\.lora_([AB])(?:\.default)?\.weight$")


@dataclass(frozen=True)
class Files:
    """The files of one model, all there.

    Attributes:
        name: the model's, as it was asked for.
        folder: that holds configuration, tokenizer and chat template.
        weights: the files with its tensors.
        adapter: a folder with a LoRA adapter of it, or None.
    """

    name: str
    folder: Path
    weights: tuple[Path, ...]
    adapter: Path | None = None

    @property
    def config(self) -> dict[str, Any]:
        """What `config.json` says."""
        return _json(self.folder / _CONFIG)


def find(model: str) -> Files:
    """The files of a model: a folder, a name as released, or a repository of the hub.

    A folder may be what the hub has, a finetuned copy of it, or a LoRA adapter, whose
    `adapter_config.json` names the model it belongs to. A name is looked for in the folder that
    PERCEPTION_SEARCH_WEIGHTS names, and then on the hub.

    Raises:
        WeightsNotFound: something is missing; the message says what.
        WeightsMismatch: the adapter is of another kind.
    """
    folder = Path(model).expanduser()
    if not folder.is_dir():
        name = model.removeprefix("facebook/")
        if name not in MODELS and "/" not in model:
            raise WeightsNotFound(
                f"{model} is neither a folder nor a Perception LM; there are {', '.join(MODELS)}"
            )
        own = os.environ.get("PERCEPTION_SEARCH_WEIGHTS")
        if own and (Path(own).expanduser() / name).is_dir():
            return find(str(Path(own).expanduser() / name))
        return _from_hub(f"facebook/{name}" if name in MODELS else model)
    if (folder / _ADAPTER_CONFIG).is_file():
        base = str(_json(folder / _ADAPTER_CONFIG).get("base_model_name_or_path") or "")
        if not base or not (folder / _ADAPTER).is_file():
            raise WeightsNotFound(
                f"{folder} is an adapter without {_ADAPTER}, or does not name the model it "
                f"belongs to in {_ADAPTER_CONFIG}"
            )
        files = find(base)
        return Files(str(folder), files.folder, files.weights, folder)
    if not (folder / _CONFIG).is_file():
        inner = folder / "original"
        if (folder / "params.json").is_file() or (inner / "params.json").is_file():
            raise WeightsNotFound(
                f"{folder} holds params.json: that is Meta's own layout. Give the folder that "
                f"holds {_CONFIG} and {_ONE_FILE}, as the hub has them beside original/"
            )
        raise WeightsNotFound(f"{folder} holds no {_CONFIG}: it is no folder of a model")
    return Files(str(folder), folder, _weights_in(folder))


def _weights_in(folder: Path) -> tuple[Path, ...]:
    if (folder / _INDEX).is_file():
        names = sorted(set(_json(folder / _INDEX)["weight_map"].values()))
    else:
        names = [_ONE_FILE]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise WeightsNotFound(f"{folder} lacks {', '.join(missing)}: the tensors of the model")
    return tuple(folder / name for name in names)


def _from_hub(repository: str) -> Files:
    from perception_search.assets import hub_file

    def optional(name: str) -> Path | None:
        try:
            return hub_file(repository, name)
        except DownloadError as error:
            if "has no file" in str(error):
                return None
            raise

    try:
        folder = hub_file(repository, _CONFIG).parent
        for name in _TOKENIZER:
            hub_file(repository, name)
        for name in _OPTIONAL:
            optional(name)
        index = optional(_INDEX)
        names = sorted(set(_json(index)["weight_map"].values())) if index else [_ONE_FILE]
        return Files(repository, folder, tuple(hub_file(repository, name) for name in names))
    except DownloadError as error:
        raise WeightsNotFound(f"{repository} cannot be had: {error}") from error


def tensors(files: Files) -> "Iterator[tuple[str, Tensor]]":
    """The model's tensors by the names of transformers, one after the other.

    Raises:
        WeightsMismatch: the vision tower is no Perception Encoder, or an adapter fits nothing.
    """
    changes = _adapter(files.adapter) if files.adapter is not None else {}
    places: dict[str, tuple[Checkpoint, str]] = {}
    for path in files.weights:
        file = Checkpoint(path)
        places |= {_current(key): (file, key) for key in file.keys}
    vision = {
        name.removeprefix(_VISION): place for name, place in places.items() if _is_vision(name)
    }
    parts = recognise(vision).towers["vision"]
    for name, part in parts.items():
        taken = [_read(vision[key], changes.pop(_VISION + key, None)) for key in part.keys]
        yield f"{_VISION}tower.{name}", part.make(*taken)
    for name, place in places.items():
        if not _is_vision(name):
            yield name, _read(place, changes.pop(name, None))
    if changes:
        raise WeightsMismatch(
            f"{files.adapter} changes {next(iter(changes))}, which {files.folder} does not have: "
            "it belongs to another model"
        )


def _read(place: tuple[Checkpoint, str], change: "Tensor | None") -> "Tensor":
    file, key = place
    tensor = file.tensor(key)
    return tensor if change is None else (tensor.float() + change).to(tensor.dtype)


def _is_vision(name: str) -> bool:
    return name.startswith(_VISION)


def _current(key: str) -> str:
    for pattern, replacement in _MOVED:
        key = re.sub(pattern, replacement, key)
    return key


def _adapter(folder: Path) -> "dict[str, Tensor]":
    """What a LoRA adapter adds to each tensor: scale * B A (Hu et al. 2021)."""
    config = _json(folder / _ADAPTER_CONFIG)
    if config.get("peft_type", "LORA") != "LORA" or config.get("use_dora"):
        raise WeightsMismatch(
            f"{folder} is an adapter of the kind {config.get('peft_type')}; only LoRA is added. "
            "Merge it with peft and give the merged folder"
        )
    rank = int(config["r"])
    scale = float(config["lora_alpha"]) / (rank**0.5 if config.get("use_rslora") else rank)
    file = Checkpoint(folder / _ADAPTER)
    halves: dict[str, dict[str, Tensor]] = {}
    for key in file.keys:
        match = _LORA.match(key)
        if match is None:
            raise WeightsMismatch(
                f"{folder} holds {key}, which is no part of a LoRA adapter; merge it with peft and "
                "give the merged folder"
            )
        name = _current(match[1] + ".weight")
        halves.setdefault(name, {})[match[2]] = file.tensor(key)
    return {name: scale * (half["B"].float() @ half["A"].float()) for name, half in halves.items()}


def _json(path: Path | None) -> dict[str, Any]:
    assert path is not None
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsNotFound(f"{path} cannot be read ({error})") from error
    if not isinstance(said, Mapping):
        raise WeightsNotFound(f"{path} does not hold what it should")
    return dict(said)
