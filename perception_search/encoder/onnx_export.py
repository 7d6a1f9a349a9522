"""Writes towers as ONNX files and holds them against torch; knows no pictures and no words.

A file takes any number of pictures or of texts at once. It appears under its name when it is whole
and was checked, not before.
"""

import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from perception_search import __version__, durable
from perception_search.encoder.config import MODELS, ModelConfig
from perception_search.encoder.layouts import TowerName
from perception_search.encoder.names import resolve_name
from perception_search.encoder.tokenizer import END_OF_TEXT, START_OF_TEXT
from perception_search.encoder.towers import TextTower, VisionTower
from perception_search.encoder.weights import find_weights, load_tower, tower_sha256
from perception_search.errors import ExportError, MissingExtra, ModelNotFound
from perception_search.media import display

OPSETS = range(18, 26)
"""The versions of ONNX's operators that can be written; most runtimes read the first."""

MAX_DIFFERENCE = 1e-4
"""No output may be farther from torch's."""

_INLINE_BYTES = 3 * 2**29  # torch's limit; a protocol buffer ends at 2 GiB
_BATCHES = (1, 2, 5)  # that are compared with torch


@dataclass(frozen=True)
class OnnxFile:
    """A tower as it was written.

    Attributes:
        tower: `vision` or `text`.
        path: of the graph, and of the weights up to 1.5 GiB of them.
        data_path: of more than that; the graph looks for it beside itself, by this name.
        size_bytes: of both.
        max_difference: of any output from torch's; None if they were not compared.
    """

    tower: TowerName
    path: Path
    data_path: Path | None
    size_bytes: int
    max_difference: float | None

    def as_dict(self) -> dict[str, object]:
        """The fields by name, ready for JSON."""
        return asdict(self)


def export_onnx(
    model: str,
    folder: str | Path,
    *,
    tower: Literal["vision", "text", "both"] = "both",
    weights: str | Path | None = None,
    projection: str | Path | None = None,
    opset: int = OPSETS.start,
    check: bool = True,
    overwrite: bool = False,
) -> Iterator[OnnxFile]:
    """Check what can be checked, then write `<model>.vision.onnx` and `<model>.text.onnx`.

    - vision: `pixels` float32 (batch, 3, S, S), RGB in -1..1, to raw `embeddings` float32
      (batch, dim), or to `tokens` (batch, T, width) where the model has no embeddings.
    - text: `tokens` int64 (batch, length), as `tokenize` gives them, whole or cut behind the
      batch's longest text, to raw `embeddings` float32 (batch, dim).

    Their metadata say how pixels and tokens are made, and whose weights these are.

    Args:
        model: a name that `PerceptionEncoder` or `FeatureExtractor` takes.
        folder: where the files go; made if it is missing.
        tower: `both` is all that the model has.
        weights: as for `PerceptionEncoder`.
        projection: as for `PerceptionEncoder`.
        opset: version of ONNX's operators, one of OPSETS.
        check: run ONNX's checker, and compare with torch where onnxruntime is installed.
        overwrite: whether files of those names may be replaced.

    Returns:
        Each file once it is there; the next one is written when it is asked for.

    Raises:
        MissingExtra: onnx or onnxscript is not installed.
        ModelNotFound: no such model, or it has no such tower.
        WeightsNotFound: the weights are nowhere.
        WeightsMismatch: the weights are not this model's.
        ExportError: a file is there already, or computes something else; that one is left out.
        ValueError: no such tower or opset.
    """
    _check_possible(opset)
    config = MODELS[resolve_name(model)]
    paths = {each: Path(folder) / f"{config.name}.{each}.onnx" for each in _towers(config, tower)}
    for path in paths.values():
        _refuse_taken(path, overwrite=overwrite)
    file = find_weights(config.name, weights)
    other = None if projection is None else find_weights(config.name, projection)
    Path(folder).mkdir(parents=True, exist_ok=True)

    def written() -> Iterator[OnnxFile]:
        cpu, dtype = torch.device("cpu"), torch.float32
        for each, path in paths.items():
            module = load_tower(file, config, each, device=cpu, dtype=dtype, projection=other)
            sha256 = tower_sha256(file, config, each, projection=other)
            properties = {"model": config.name, "tower_sha256": sha256, "licence": config.licence}
            yield write_tower(
                module, path, properties, opset=opset, check=check, overwrite=overwrite
            )

    return written()


def write_tower(
    tower: VisionTower | TextTower,
    path: Path,
    properties: Mapping[str, str],
    *,
    opset: int = OPSETS.start,
    check: bool = True,
    overwrite: bool = False,
) -> OnnxFile:
    """Write one tower; see `export_onnx`.

    Args:
        tower: on a CPU, in float32.
        path: of the file. More than 1.5 GiB of weights go into `<path>.data`.
        properties: metadata, beside what follows from the tower.
        opset: one of OPSETS.
        check: as for `export_onnx`.
        overwrite: as for `export_onnx`.
    """
    _check_possible(opset)
    _refuse_taken(path, overwrite=overwrite)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=durable.TEMPORARY_PREFIX) as folder:
        new = Path(folder) / path.name  # its own name: the graph says what its data is called
        _write(tower, new, {**properties, **_described(tower)}, opset)
        difference = _check(tower, new) if check else None
        data_path = _data_path(path) if _data_path(new).exists() else None
        if data_path is not None:
            durable.remove(path)  # it goes with other data
            _publish(_data_path(new), data_path)
        _publish(new, path)
        if data_path is None:
            durable.remove(_data_path(path))
    parts = [part for part in (path, data_path) if part is not None]
    return OnnxFile(
        tower="vision" if isinstance(tower, VisionTower) else "text",
        path=path,
        data_path=data_path,
        size_bytes=sum(part.stat().st_size for part in parts),
        max_difference=difference,
    )


def _towers(config: ModelConfig, tower: str) -> tuple[TowerName, ...]:
    if tower == "vision" or (tower == "both" and config.text is None):
        return ("vision",)
    if tower == "both":
        return ("vision", "text")
    if tower != "text":
        raise ValueError(f"tower={tower!r}; one of vision, text, both")
    if config.text is None:
        raise ModelNotFound(f"{config.name} has no text tower; its vision tower can be written")
    return ("text",)


def _check_possible(opset: int) -> None:
    if opset not in OPSETS:
        raise ValueError(f"opset={opset}; must be {OPSETS.start} to {OPSETS.stop - 1}")
    if find_spec("onnx") is None or find_spec("onnxscript") is None:
        raise MissingExtra(
            "an ONNX export needs onnx and onnxscript: pip install 'perception-search[onnx]'"
        )


def _refuse_taken(path: Path, *, overwrite: bool) -> None:
    for taken in (path, _data_path(path)):
        if taken.is_dir():
            raise ExportError(f"{display(taken)} is a folder; choose another one to write to")
        if not overwrite and os.path.lexists(taken):
            raise ExportError(
                f"{display(taken)} is already there; choose another folder, or overwrite it"
            )


def _data_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.data")


def _publish(new: Path, path: Path) -> None:
    durable.Pending(new, new.open("rb+")).publish(path)


class _Rows(nn.Module):
    """A text tower as it is traced: all columns are computed."""

    def __init__(self, tower: TextTower) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, tokens: Tensor) -> Tensor:
        return self.tower.encode_rows(tokens)


def _write(
    tower: VisionTower | TextTower, path: Path, properties: Mapping[str, str], opset: int
) -> None:
    """One file as torch's exporter writes it, and its data where there is much of it."""
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    batch = torch.export.Dim("batch")
    module: nn.Module = tower
    shape = {0: batch}
    if isinstance(tower, TextTower):
        # The token embedding may still be of the file's dtype.
        module = _Rows(tower.float()).eval()
        shape[1] = torch.export.Dim("length", max=tower.config.context_length)
    with _quiet():
        program = torch.onnx.export(
            module,
            (_inputs(tower, 2, torch.Generator()),),
            dynamo=True,
            verbose=False,
            opset_version=opset,
            input_names=[_names(tower)[0]],
            output_names=[_names(tower)[1]],
            dynamic_shapes=(shape,),
        )
        assert program is not None  # as it is without dynamo
        if program.model.opset_imports[""] != opset:  # torch warns, and writes another
            raise ExportError(f"torch {torch.__version__} cannot write opset {opset}; ask for less")
        ClearMetadataAndDocStringPass()(program.model)  # where the code lies on this machine
        program.model.metadata_props.update(properties)
        num_bytes = sum(parameter.nbytes for parameter in tower.parameters())
        program.save(path, external_data=num_bytes > _INLINE_BYTES)


def _names(tower: VisionTower | TextTower) -> tuple[str, str]:
    """Of the input and the output."""
    if isinstance(tower, TextTower):
        return "tokens", "embeddings"
    return "pixels", "tokens" if tower.config.pool == "none" else "embeddings"


def _described(tower: VisionTower | TextTower) -> dict[str, str]:
    """What whoever holds the file must know of its input and output."""
    raw = "raw embeddings, to be divided by their lengths before they are compared"
    if isinstance(tower, TextTower):
        length = tower.config.context_length
        return {
            "tower": "text",
            "preprocessing": f"CLIP's byte pairs: {START_OF_TEXT}, the text, {END_OF_TEXT}, zeros; "
            f"at most {length} in a row, and any column after the longest text may be left out",
            "output": raw,
            "logit_scale": str(float(tower.logit_scale.float().exp())),
            "perception_search": __version__,
        }
    is_pooled = tower.config.pool != "none"
    return {
        "tower": "vision",
        "preprocessing": tower.config.preprocessing,
        "output": raw if is_pooled else "tokens, row by row, the class token first if there is one",
        "perception_search": __version__,
    }


def _inputs(tower: VisionTower | TextTower, batch: int, generator: torch.Generator) -> Tensor:
    """Random pixels, or random rows of evenly spread lengths, the longest as long as may be."""
    if isinstance(tower, VisionTower):
        size = tower.config.image_size
        return torch.rand(batch, 3, size, size, generator=generator) * 2 - 1
    length = tower.config.context_length
    rows = torch.randint(START_OF_TEXT, (batch, length), generator=generator)
    rows[:, 0] = START_OF_TEXT
    for row, end in zip(rows, torch.linspace(length - 1, 1, batch).long(), strict=True):
        row[end] = END_OF_TEXT
        row[end + 1 :] = 0
    return rows


def _check(tower: VisionTower | TextTower, path: Path) -> float | None:
    """How far the file's outputs are from the tower's, at most; None without onnxruntime.

    Raises:
        ExportError: too far, or the file is not valid or cannot be run.
    """
    import onnx

    try:
        onnx.checker.check_model(path, full_check=True)
        if find_spec("onnxruntime") is None:
            return None
        difference = _difference(tower, path)
    except Exception as error:  # both packages raise anything
        reason = " ".join(str(error).split())
        raise ExportError(f"{path.name} is not written: it cannot be run: {reason}") from error
    if not difference <= MAX_DIFFERENCE:
        raise ExportError(
            f"{path.name} is not written: it differs from torch by {difference:.1e}; at most "
            f"{MAX_DIFFERENCE:.0e} is allowed"
        )
    return difference


def _difference(tower: VisionTower | TextTower, path: Path) -> float:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors alone
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # torch's turn is next
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    differences = []
    with torch.inference_mode():
        for batch in _BATCHES:
            inputs = _inputs(tower, batch, generator)
            (actual,) = session.run(None, {_names(tower)[0]: inputs.numpy()})
            differences.append((torch.from_numpy(actual) - tower(inputs)).abs().max())
    return float(torch.stack(differences).max())


@contextmanager
def _quiet() -> Iterator[None]:
    """What torch's exporter says of itself is not said."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
