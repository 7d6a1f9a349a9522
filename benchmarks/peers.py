"""PE-Core as open_clip has it, with the same weights as ours; for the comparison environment.

`make parity-env` makes that environment.
"""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from perception_search.encoder.config import MODELS
from perception_search.encoder.towers import TextTower, VisionTower

OPEN_CLIP_NAMES = {  # the release's -> open_clip's
    "PE-Core-T16-384": "PE-Core-T-16-384",
    "PE-Core-S16-384": "PE-Core-S-16-384",
    "PE-Core-B16-224": "PE-Core-B-16",
    "PE-Core-L14-336": "PE-Core-L-14-336",
    "PE-Core-G14-448": "PE-Core-bigG-14-448",
}

_NMS = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_PARTS = {  # of a vision tensor's name, the release's -> timm's, in this order
    "transformer.resblocks": "blocks",
    "conv1": "patch_embed.proj",
    "class_embedding": "cls_token",
    "positional_embedding": "pos_embed",
    "ln_pre": "norm_pre",
    "ln_post": "norm",
    "attn_pool.attn.out_proj": "attn_pool.proj",
    "attn_pool.probe": "attn_pool.latent",
    "attn_pool.layernorm": "attn_pool.norm",
    "attn.in_proj_": "attn.qkv.",
    "attn.out_proj": "attn.proj",
    "ln_1": "norm1",
    "ln_2": "norm2",
    "c_fc": "fc1",
    "c_proj": "fc2",
}


def import_open_clip() -> Any:
    """open_clip; it needs torchvision, whose own operators a CPU build of torch may not have."""
    for name in ("nms", "qnms"):
        with contextlib.suppress(RuntimeError):  # declared already
            torch.library.define(f"torchvision::{name}", _NMS)
    import open_clip

    return open_clip


def open_clip_model(name: str, tensors: Mapping[str, Tensor]) -> Any:
    """open_clip's model with these weights, ready for inference, in float32.

    Args:
        name: as released.
        tensors: by the names of the release. Without a text tower open_clip's stays random.
    """
    model = import_open_clip().create_model(OPEN_CLIP_NAMES[name], pretrained=None)
    state = open_clip_state(tensors)
    missing, extra = model.load_state_dict(state, strict=False)
    has_text = any(key.startswith("text.") for key in state)
    missing = [key for key in missing if has_text or key.startswith("visual.")]
    assert not missing, missing[:3]
    assert not extra, extra[:3]
    return model.float().eval()


def open_clip_transform(name: str) -> Any:
    """The transform that open_clip's pretrained tag would bring: picture to (3, H, W)."""
    config = import_open_clip().get_pretrained_cfg(OPEN_CLIP_NAMES[name], "meta")
    from open_clip.transform import PreprocessCfg, image_transform_v2

    names = ("mean", "std", "interpolation", "resize_mode")
    size = MODELS[name].vision.image_size
    return image_transform_v2(
        PreprocessCfg(size=size, **{each: config[each] for each in names}), is_train=False
    )


def random_weights(name: str, path: Path, *, with_text: bool = False) -> dict[str, Tensor]:
    """Seeded towers under the names of the release, written to `path` as well.

    Of a size that keeps different inputs different: all embeddings alike would prove nothing.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        shapes = {
            f"visual.{key}": value
            for key, value in VisionTower(MODELS[name].vision).state_dict().items()
        }
        if with_text:
            shapes |= TextTower(MODELS[name].text).state_dict()
    tensors = {}
    for key, shape in shapes.items():
        values = torch.randn(shape.shape, generator=generator)
        if "ln_" in key or "layernorm" in key:
            values = values * 0.1 + key.endswith("weight")
        elif key.endswith("bias"):
            values = values * 0.05
        elif key.endswith("token_embedding.weight"):
            values = values * 0.5
        elif key.endswith("weight"):
            values = values / values[0].numel() ** 0.5
        elif key.endswith(("proj", "text_projection")):
            values = values / len(values) ** 0.5
        tensors[key] = values
    save_file(tensors, path)
    return tensors


def open_clip_state(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors named as released, under open_clip's names: timm's vision tower, the same texts."""
    state: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.startswith("visual."):
            vision = _timm_tensors(name.removeprefix("visual."), tensor)
            state |= {f"visual.trunk.{key}": value for key, value in vision.items()}
        else:
            state[name if name == "logit_scale" else f"text.{name}"] = tensor
    return state


def _timm_tensors(name: str, tensor: Tensor) -> dict[str, Tensor]:
    if name == "proj":  # (D, O), used as x @ proj
        return {"head.weight": tensor.T.contiguous(), "head.bias": torch.zeros(tensor.shape[1])}
    if name.startswith("attn_pool.attn.in_proj_"):
        kind = name.removeprefix("attn_pool.attn.in_proj_")
        width = len(tensor) // 3
        return {f"attn_pool.q.{kind}": tensor[:width], f"attn_pool.kv.{kind}": tensor[width:]}
    if name in ("class_embedding", "positional_embedding"):
        tensor = tensor.reshape(1, -1, tensor.shape[-1])  # (1, N, D)
    for ours, theirs in _PARTS.items():
        name = name.replace(ours, theirs)
    return {name: tensor}
