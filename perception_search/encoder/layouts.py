"""How others name the tensors of the same models, and how theirs become the release's.

Five layouts are told apart by their names alone: Meta's two (a CLIP model, a bare vision tower),
open_clip's, timm's and birder's. Knows names and shapes; opens no file.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from perception_search.errors import WeightsMismatch

if TYPE_CHECKING:
    from torch import Tensor

TowerName = Literal["vision", "text"]

_VISION, _TRUNK, _TEXT = "visual.", "visual.trunk.", "text."
_Renames = tuple[tuple[str, str], ...]

# Regular expressions over a vision tensor's name, the first that fits a part of it replaces it.
_BLOCK: _Renames = (
    (r"\.norm1\.", ".ln_1."),
    (r"\.norm2\.", ".ln_2."),
    (r"\.attn\.qkv\.", ".attn.in_proj_"),
    (r"\.attn\.proj\.", ".attn.out_proj."),
    (r"^attn_pool\.latent$", "attn_pool.probe"),
    (r"^attn_pool\.proj\.", "attn_pool.attn.out_proj."),
    (r"^attn_pool\.norm\.", "attn_pool.layernorm."),
    (r"^norm\.", "ln_post."),
)
_TIMM: _Renames = (
    (r"^blocks\.", "transformer.resblocks."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
    (r"\.gamma_([12])$", r".ls_\1.gamma"),
    (r"^cls_token$", "class_embedding"),
    (r"^pos_embed$", "positional_embedding"),
    (r"^patch_embed\.proj\.", "conv1."),
    (r"^norm_pre\.", "ln_pre."),
    (r"^head\.weight$", "proj"),
    *_BLOCK,
)
_BIRDER: _Renames = (
    (r"^encoder\.block\.", "transformer.resblocks."),
    (r"\.mlp\.0\.", ".mlp.c_fc."),
    (r"\.mlp\.3\.", ".mlp.c_proj."),
    (r"^class_token$", "class_embedding"),
    (r"^reg_tokens$", "class_embedding"),  # PE-Spatial: what others call the class token
    (r"^pos_embedding$", "positional_embedding"),
    (r"^conv_proj\.", "conv1."),
    (r"^encoder\.pre_block\.0\.", "ln_pre."),
    *_BLOCK,
)
_AROUND = re.compile(r"^(module\.|timm_model\.)+")  # torch's and transformers' wrappers put it
_POOL_QUERY = re.compile(r"^attn_pool\.(q|kv)\.(weight|bias)$")


@dataclass(frozen=True)
class Part:
    """One tensor of the release: the file's tensors it is made of, and how.

    Attributes:
        keys: of the file.
        make: those tensors -> the tensor as Meta shaped it; without reading where it can.
    """

    keys: tuple[str, ...]
    make: "Callable[..., Tensor]"


@dataclass(frozen=True)
class Layout:
    """What a file holds, by the release's names.

    Attributes:
        name: whose layout it is.
        towers: the tensors of each tower; a tower that is not there has none.
        zeros: keys of tensors that the release does not have; they must be zero.
    """

    name: str
    towers: Mapping[TowerName, Mapping[str, Part]]
    zeros: tuple[str, ...] = ()


def recognise(keys: Iterable[str]) -> Layout:
    """The layout of a file from the names of its tensors.

    Raises:
        WeightsMismatch: it is none of the five.
    """
    named = {_AROUND.sub("", key): key for key in keys}
    if any(name.startswith(_TRUNK) for name in named):
        return Layout(
            "open_clip's",
            {
                "vision": _converted(_within(named, _TRUNK), _TIMM),
                "text": _as_they_are(
                    {name.removeprefix(_TEXT): key for name, key in _without(named, _TRUNK).items()}
                ),
            },
            _head_bias(named, _TRUNK),
        )
    if "patch_embed.proj.weight" in named:
        return Layout(
            "timm's", {"vision": _converted(named, _TIMM), "text": {}}, _head_bias(named, "")
        )
    if "conv_proj.weight" in named:
        return Layout("birder's", {"vision": _converted(named, _BIRDER), "text": {}})
    if any(name.startswith(_VISION) for name in named):
        vision, text = _within(named, _VISION), _without(named, _VISION)
        return Layout("Meta's", {"vision": _as_they_are(vision), "text": _as_they_are(text)})
    one = _as_they_are(named)
    if "token_embedding.weight" in named:
        return Layout("Meta's", {"vision": {}, "text": one})
    if "conv1.weight" in named:
        return Layout("Meta's", {"vision": one, "text": {}})
    raise WeightsMismatch(
        f"{len(named)} tensors, the first of them {next(iter(named), 'none')}: these are no names "
        "of Perception Encoder; expected are Meta's (visual.conv1.weight or conv1.weight), "
        "open_clip's (visual.trunk.patch_embed.proj.weight), timm's (patch_embed.proj.weight) or "
        "birder's (conv_proj.weight)"
    )


def _within(named: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {name[len(prefix) :]: key for name, key in named.items() if name.startswith(prefix)}


def _without(named: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {name: key for name, key in named.items() if not name.startswith(prefix)}


def _head_bias(named: Mapping[str, str], prefix: str) -> tuple[str, ...]:
    return tuple(key for name, key in named.items() if name == f"{prefix}head.bias")


def _as_they_are(named: Mapping[str, str]) -> dict[str, Part]:
    return {name: Part((key,), _same) for name, key in named.items()}


def _converted(named: Mapping[str, str], renames: _Renames) -> dict[str, Part]:
    parts: dict[str, Part] = {}
    for name, key in named.items():
        if pool := _POOL_QUERY.match(name):
            which, kind = pool.groups()
            if which == "q" and (other := named.get(f"attn_pool.kv.{kind}")) is not None:
                parts[f"attn_pool.attn.in_proj_{kind}"] = Part((key, other), _joined)
        elif name != "head.bias":
            released = name
            for pattern, replacement in renames:
                released = re.sub(pattern, replacement, released)
            parts[released] = Part((key,), _MAKERS.get(released, _same))
    return parts


def _same(tensor: "Tensor") -> "Tensor":
    return tensor


def _flat(tensor: "Tensor") -> "Tensor":
    return tensor.flatten()  # (1, 1, D) -> (D,)


def _rows(tensor: "Tensor") -> "Tensor":
    return tensor.flatten(0, -2)  # (1, N, D) -> (N, D)


def _transposed(tensor: "Tensor") -> "Tensor":
    return tensor.T  # (O, D) -> (D, O)


def _joined(query: "Tensor", key_and_value: "Tensor") -> "Tensor":
    import torch

    return torch.cat([query, key_and_value])


_MAKERS: "Mapping[str, Callable[..., Tensor]]" = {
    "class_embedding": _flat,
    "positional_embedding": _rows,
    "proj": _transposed,
}
