"""Perception Encoder as other libraries have it, with the same weights as ours.

For the comparison environment, which `make parity-env` makes. Weights are given by the names of the
release: `visual.` stands before the vision tower's where the file holds a text tower as well. Of
how many blocks a model is made is seen from them, so that a large one can be tried with a few.
"""

import contextlib
import functools
import importlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from peer_layouts import (
    birder_state,
    num_blocks,
    open_clip_state,
    text_tensors,
    timm_state,
    vision_tensors,
)
from safetensors.torch import save_file
from torch import Tensor

from perception_search.encoder.config import MODELS, ModelConfig
from perception_search.encoder.towers import TextTower, VisionTower

OPEN_CLIP_NAMES = {  # the release's -> open_clip's
    "PE-Core-T16-384": "PE-Core-T-16-384",
    "PE-Core-S16-384": "PE-Core-S-16-384",
    "PE-Core-B16-224": "PE-Core-B-16",
    "PE-Core-L14-336": "PE-Core-L-14-336",
    "PE-Core-G14-448": "PE-Core-bigG-14-448",
}
TIMM_NAMES = {  # transformers has no model of its own: it wraps timm's
    "PE-Core-T16-384": "vit_pe_core_tiny_patch16_384",
    "PE-Core-S16-384": "vit_pe_core_small_patch16_384",
    "PE-Core-B16-224": "vit_pe_core_base_patch16_224",
    "PE-Core-L14-336": "vit_pe_core_large_patch14_336",
    "PE-Core-G14-448": "vit_pe_core_gigantic_patch14_448",
    "PE-Lang-L14-448": "vit_pe_lang_large_patch14_448",
    "PE-Lang-G14-448": "vit_pe_lang_gigantic_patch14_448",
    "PE-Spatial-T16-512": "vit_pe_spatial_tiny_patch16_512",
    "PE-Spatial-S16-512": "vit_pe_spatial_small_patch16_512",
    "PE-Spatial-B16-512": "vit_pe_spatial_base_patch16_512",
    "PE-Spatial-L14-448": "vit_pe_spatial_large_patch14_448",
    "PE-Spatial-G14-448": "vit_pe_spatial_gigantic_patch14_448",
}
PERCEPTION_LM_NAMES = {  # timm's, out of which transformers makes its language model's eyes
    "PE-Lang-L14-448": "vit_pe_core_large_patch14_336",
    "PE-Lang-G14-448": "vit_pe_core_gigantic_patch14_448",
}
BIRDER_NAMES = {
    "PE-Core-S16-384": "rope_i_vit_s16_pn_aps_c1",
    "PE-Core-B16-224": "rope_i_vit_b16_pn_aps_c1",
    "PE-Core-L14-336": "rope_i_vit_l14_pn_aps_c1",
    "PE-Spatial-T16-512": "rope_i_vit_reg1_t16_pn_npn_avg_c1",
    "PE-Spatial-S16-512": "rope_i_vit_reg1_s16_pn_npn_avg_c1",
    "PE-Spatial-B16-512": "rope_i_vit_reg1_b16_pn_npn_avg_c1",
}

_NMS = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def import_open_clip() -> Any:
    """open_clip, which needs torchvision."""
    _declare_torchvision_operators()
    import open_clip

    return open_clip


def open_clip_model(name: str, tensors: Mapping[str, Tensor]) -> Any:
    """open_clip's model with these weights, ready for inference, in float32.

    Args:
        name: as released.
        tensors: by the names of the release. Without a text tower open_clip's stays random.
    """
    open_clip = import_open_clip()
    import timm

    text = text_tensors(tensors)
    config = open_clip.get_model_config(OPEN_CLIP_NAMES[name])["text_cfg"]
    config["layers"] = num_blocks(text) if text else config["layers"]
    few = functools.partial(timm.create_model, depth=num_blocks(vision_tensors(tensors)))
    with mock.patch.object(timm, "create_model", few):  # open_clip has no option for it
        model = open_clip.create_model(OPEN_CLIP_NAMES[name], pretrained=None, text_cfg=config)
    missing, extra = model.load_state_dict(open_clip_state(tensors), strict=False, assign=True)
    missing = [key for key in missing if text or key.startswith("visual.")]
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


def timm_model(name: str, tensors: Mapping[str, Tensor], device: torch.device | None = None) -> Any:
    """timm's vision tower with these weights, ready for inference, in float32.

    Pixels (B, 3, H, W) in -1..1 become raw embeddings: the projection is its head. The models
    without projection pool by the mean of the patches, as only timm does.

    Args:
        name: as released.
        tensors: by the names of the release, on `device`.
        device: the CPU unless one is given; timm first makes random weights there.
    """
    _declare_torchvision_operators()
    import timm

    vision = vision_tensors(tensors)
    with torch.device(device or "cpu"):
        model = timm.create_model(
            TIMM_NAMES[name],
            num_classes=MODELS[name].vision.output_dim or 0,
            depth=num_blocks(vision),
        )
        model.load_state_dict(timm_state(vision), assign=True)
    return model.float().eval()


def birder_model(name: str, tensors: Mapping[str, Tensor]) -> Any:
    """birder's vision tower with these weights, ready for inference, in float32.

    Its `embedding` gives pooled vectors, before the projection, which birder leaves out.
    """
    _declare_torchvision_operators()
    from birder.model_registry import registry

    vision = vision_tensors(tensors)
    size = MODELS[name].vision.image_size
    depth = {"num_layers": num_blocks(vision)}
    model = registry.net_factory(BIRDER_NAMES[name], 0, config=depth, size=(size, size))
    model.load_state_dict(birder_state(vision), assign=True)
    return model.float().eval()


def transformers_model(name: str, tensors: Mapping[str, Tensor]) -> Any:
    """transformers' wrapper of timm's vision tower, ready for inference, in float32.

    Its `pooler_output` is pooled vectors, before the projection, for which it has no place; its
    `last_hidden_state` is all tokens behind the last norm.
    """
    _declare_torchvision_operators()
    from transformers import TimmWrapperConfig, TimmWrapperModel

    vision = vision_tensors(tensors)
    state = {key: t for key, t in timm_state(vision).items() if not key.startswith("head.")}
    model = TimmWrapperModel(
        TimmWrapperConfig(architecture=TIMM_NAMES[name], model_args={"depth": num_blocks(vision)})
    )
    model.load_state_dict(state, assign=True)
    return model.float().eval()


def perception_lm_tower(name: str, tensors: Mapping[str, Tensor]) -> Any:
    """The vision tower of transformers' Perception LM with the weights of PE-Lang, in float32.

    It is made as that model makes it: PE-Core's tower without pooling and last norm, of another
    size and with scales. Its language model is a tiny one here, and is not used.
    """
    _declare_torchvision_operators()
    from transformers import LlamaConfig, PerceptionLMConfig, PerceptionLMModel

    config = MODELS[name].vision
    state = timm_state(vision_tensors(tensors))
    vision = {
        "model_type": "timm_wrapper",
        "architecture": PERCEPTION_LM_NAMES[name],
        "model_args": {
            "depth": num_blocks(vision_tensors(tensors)),
            "embed_dim": config.width,
            "img_size": [config.image_size, config.image_size],
            "ref_feat_shape": [config.grid_size, config.grid_size],
            "global_pool": "",
            "init_values": 0.1,
            "use_post_transformer_norm": False,
        },
    }
    text = LlamaConfig(
        vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    model = PerceptionLMModel(PerceptionLMConfig(vision_config=vision, text_config=text))
    model.vision_tower.load_state_dict(state, assign=True)
    return model.vision_tower.float().eval()


def random_weights(
    name: str,
    path: Path,
    *,
    with_text: bool = False,
    depth: int | None = None,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    """Seeded towers under the names of the release, written to `path` as well.

    Of a size that keeps different inputs different: all embeddings alike would prove nothing.

    Args:
        name: as released.
        path: of the safetensors file.
        with_text: the text tower as well.
        depth: blocks of each tower at most; None for as many as were released.
        device: where they are made and stay; each kind of device makes its own.
        dtype: of all of them.
    """
    generator = torch.Generator(device or "cpu").manual_seed(0)
    config = shallow(MODELS[name], depth)
    prefix = "visual." if config.text else ""
    with torch.device("meta"):
        shapes = {
            f"{prefix}{key}": value
            for key, value in VisionTower(config.vision).state_dict().items()
        }
        if with_text and config.text:
            shapes |= TextTower(config.text).state_dict()
    tensors = {}
    for key, shape in shapes.items():
        values = torch.randn(shape.shape, generator=generator, device=device)
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
        tensors[key] = values.to(dtype)
    save_file(tensors, path)
    return tensors


def shallow(config: ModelConfig, depth: int | None) -> ModelConfig:
    """The model with so many blocks in each tower at most, of their full width."""
    vision, text = config.vision, config.text
    if depth is None:
        return config
    return replace(
        config,
        vision=replace(vision, depth=min(vision.depth, depth)),
        text=text and replace(text, depth=min(text.depth, depth)),
    )


@functools.cache
def _declare_torchvision_operators() -> None:
    """All of them import torchvision, whose own operators a CPU build of torch may not have.

    Where it has them, declaring them once more would end the process.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        for name in ("nms", "qnms"):
            with contextlib.suppress(RuntimeError):  # declared already
                torch.library.define(f"torchvision::{name}", _NMS)
