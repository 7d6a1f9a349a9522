"""transformers' Perception LM with our vision tower where it has timm's; tensors in, tensors out.

timm needs torchvision, which a machine with torch alone lacks. The towers are the same (see
`make parity`), and the rest is transformers' own: projector, language model, weights' names.
"""

import inspect
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    DynamicCache,
    PerceptionLMConfig,
    PerceptionLMForConditionalGeneration,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling

from perception_search.encoder.config import MODELS, VisionConfig
from perception_search.encoder.towers import VisionTower, to_unit_range
from perception_search.errors import WeightsMismatch
from perception_search.plm import checkpoint
from perception_search.plm.checkpoint import Files

_CHUNKS_AT_ONCE = 8


class PerceptionVisionConfig(PreTrainedConfig):  # type: ignore[no-untyped-call]
    """Our vision tower's configuration, as transformers carries one about."""

    model_type = "perception_search_vision"
    tower: dict[str, Any] | None = None
    model_args: dict[str, Any] | None = None


class PerceptionVisionModel(PreTrainedModel):  # type: ignore[no-untyped-call]
    """Our vision tower, as transformers calls one."""

    config_class = PerceptionVisionConfig
    base_model_prefix = "tower"

    def __init__(self, config: PerceptionVisionConfig) -> None:
        super().__init__(config)
        self.tower = VisionTower(VisionConfig(**(config.tower or {})))
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(self, pixel_values: Tensor, **_: object) -> BaseModelOutputWithPooling:
        """The tokens (N, 1 + tokens, width) of pixels in -1..1."""
        return BaseModelOutputWithPooling(last_hidden_state=self.tower(pixel_values))


AutoConfig.register(PerceptionVisionConfig.model_type, PerceptionVisionConfig, exist_ok=True)
AutoModel.register(PerceptionVisionConfig, PerceptionVisionModel, exist_ok=True)


def vision_config(said: dict[str, Any]) -> VisionConfig:
    """Our configuration of the vision tower that a `config.json` of transformers describes.

    Raises:
        WeightsMismatch: it is none of Perception Encoder's.
    """
    vision = said.get("vision_config") or {}
    args = vision.get("model_args") or {}
    width = args.get("embed_dim") or vision.get("hidden_size")
    towers = [m.vision for m in MODELS.values() if m.family == "lang" and m.vision.width == width]
    if not towers:
        raise WeightsMismatch(
            f"its vision tower is {width} wide; Perception LM's are 1024 (1B, 3B) or 1536 (8B)"
        )
    side = args.get("img_size") or towers[0].image_size
    return replace(
        towers[0],
        depth=int(args.get("depth") or towers[0].depth),
        image_size=int(side[0] if isinstance(side, Sequence) else side),
        class_token=bool(said.get("vision_use_cls_token", True)),
    )


def empty(said: dict[str, Any], tower: VisionConfig) -> PerceptionLMForConditionalGeneration:
    """The network that a `config.json` describes, on no device: without memory for its tensors."""
    vision = PerceptionVisionConfig(tower={**vars(tower)}, model_args={"embed_dim": tower.width})
    others = {k: v for k, v in said.items() if k not in ("vision_config", "architectures", "dtype")}
    config = PerceptionLMConfig(**{**others, "vision_config": vision})
    with torch.device("meta"):
        return PerceptionLMForConditionalGeneration(config)


def load(files: Files, device: torch.device, dtype: torch.dtype) -> "Network":
    """The network with its tensors.

    Raises:
        WeightsMismatch: a tensor is missing, extra or of the wrong shape.
    """
    said = files.config
    model = empty(said, vision_config(said))
    state = {name: t.to(device, dtype) for name, t in checkpoint.tensors(files)}
    if "lm_head.weight" not in state:  # tied: the language model's own embeddings
        state["lm_head.weight"] = state["model.language_model.embed_tokens.weight"]
    try:
        model.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        lines = str(error).splitlines()
        raise WeightsMismatch(f"{files.name}: {lines[min(1, len(lines) - 1)].strip()}") from error
    return Network(model, device, dtype)


class Network:
    """What is computed of pixels and tokens; every method is for inference alone."""

    def __init__(
        self,
        model: PerceptionLMForConditionalGeneration,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        language = model.model.language_model
        # what it turns positions by is no tensor of the file, and was made on no device
        language.rotary_emb = type(language.rotary_emb)(config=language.config).to(device)
        model.requires_grad_(False).train(False)
        self.model = model
        self.device, self.dtype = device, dtype
        parameters = inspect.signature(language.forward).parameters
        self._cache_name = "cache" if "cache" in parameters else "past_key_values"

    @property
    def image_token_id(self) -> int:
        """The token that stands where a picture is."""
        return int(self.model.config.image_token_id)

    @torch.inference_mode()
    def look(self, chunks: Tensor) -> Tensor:
        """Chunks (N, 3, H, W) uint8 as tokens of the language model (N, tokens, width)."""
        parts = []
        for some in torch.split(chunks, _CHUNKS_AT_ONCE):
            pixels = to_unit_range(some.to(self.device), self.dtype)
            parts.append(self.model.model.get_image_features(pixels[:, None]).pooler_output)
        return torch.cat(parts)

    @torch.inference_mode()
    def embed(self, ids: Sequence[int]) -> Tensor:
        """The embeddings (1, L, width) of tokens."""
        table = self.model.get_input_embeddings()
        embedded: Tensor = table(torch.tensor([list(ids)], device=self.device))
        return embedded

    @torch.inference_mode()
    def read(self, embeddings: Tensor, known: Any = None) -> tuple[Tensor, Any]:
        """The logits (B, vocabulary) behind the last of the embeddings (B, L, width), float32, and
        what must be known to read on.

        Args:
            embeddings: what is read.
            known: of what was read before; it is changed.
        """
        out = self.model.model.language_model(
            inputs_embeds=embeddings,
            use_cache=True,
            return_dict=True,
            **{self._cache_name: DynamicCache() if known is None else known},
        )
        logits = self.model.lm_head(out.last_hidden_state[:, -1]).float()
        return logits, getattr(out, self._cache_name)
