"""The tensors of Perception Encoder under the names that other libraries give them.

Written from their model classes, and apart from the package's own table: what is compared must not
be one table read in both directions. Knows names and shapes; imports none of the libraries.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

_Parts = Mapping[str, str]

_SAME: _Parts = {  # of a vision tensor's name, the release's -> timm's and birder's, in this order
    "ln_post": "norm",
    "attn_pool.attn.out_proj": "attn_pool.proj",
    "attn_pool.probe": "attn_pool.latent",
    "attn_pool.layernorm": "attn_pool.norm",
    "attn.in_proj_": "attn.qkv.",
    "attn.out_proj": "attn.proj",
    "ln_1": "norm1",
    "ln_2": "norm2",
}
_TIMM: _Parts = _SAME | {
    "transformer.resblocks": "blocks",
    "conv1": "patch_embed.proj",
    "class_embedding": "cls_token",
    "positional_embedding": "pos_embed",
    "ln_pre": "norm_pre",
    "c_fc": "fc1",
    "c_proj": "fc2",
    "ls_1.gamma": "gamma_1",
    "ls_2.gamma": "gamma_2",
}
_BIRDER: _Parts = _SAME | {
    "transformer.resblocks": "encoder.block",
    "conv1": "conv_proj",
    "positional_embedding": "pos_embedding",
    "ln_pre": "encoder.pre_block.0",
    "c_fc": "0",
    "c_proj": "3",
}


def vision_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The vision tower's tensors of a CLIP file or of a file of one tower, without the prefix."""
    within = {
        name.removeprefix("visual."): tensor
        for name, tensor in tensors.items()
        if name.startswith("visual.")
    }
    return within or dict(tensors)


def text_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The text tower's tensors of a CLIP file."""
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("visual.")}


def num_blocks(tensors: Mapping[str, Tensor]) -> int:
    """Blocks of one tower."""
    start = "transformer.resblocks."
    return len({name.split(".")[2] for name in tensors if name.startswith(start)})


def open_clip_state(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A CLIP file's tensors under open_clip's names: timm's vision tower, the same texts."""
    trunk = timm_state(vision_tensors(tensors))
    state = {f"visual.trunk.{name}": tensor for name, tensor in trunk.items()}
    for name, tensor in text_tensors(tensors).items():
        state[name if name == "logit_scale" else f"text.{name}"] = tensor
    return state


def timm_state(vision: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A vision tower's tensors under timm's names; the projection becomes a head with bias."""
    state = _renamed(vision, _TIMM)
    if "proj" in vision:  # (D, O), used as x @ proj
        del state["proj"]
        state["head.weight"] = vision["proj"].T.contiguous()
        state["head.bias"] = torch.zeros(vision["proj"].shape[1])
    return state


def birder_state(vision: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A vision tower's tensors under birder's names, which have no projection.

    Without pooling the class token is what birder calls a register token.
    """
    token = "class_token" if "attn_pool.probe" in vision else "reg_tokens"
    state = _renamed(vision, _BIRDER | {"class_embedding": token})
    state.pop("proj", None)
    return state


def _renamed(vision: Mapping[str, Tensor], parts: _Parts) -> dict[str, Tensor]:
    state = {}
    for name, tensor in vision.items():
        if name.startswith("attn_pool.attn.in_proj_"):
            kind = name.removeprefix("attn_pool.attn.in_proj_")
            width = len(tensor) // 3
            state[f"attn_pool.q.{kind}"] = tensor[:width].clone()
            state[f"attn_pool.kv.{kind}"] = tensor[width:].clone()
            continue
        if name in ("class_embedding", "positional_embedding"):
            tensor = tensor.reshape(1, -1, tensor.shape[-1])  # (1, N, D)
        for theirs_from, theirs in parts.items():
            name = name.replace(theirs_from, theirs)
        state[name] = tensor
    return state
