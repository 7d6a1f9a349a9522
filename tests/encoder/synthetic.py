"""Small models and weights for the tests of the encoder: every tensor follows from its name."""

import torch
from golden import recipe

from perception_search.encoder.config import MODELS, ModelConfig, TextConfig, VisionConfig
from perception_search.encoder.towers import TextTower, VisionTower

T16 = MODELS["PE-Core-T16-384"]
MINI_CLS = ModelConfig(
    "mini_cls", VisionConfig(64, 16, 96, 3, 3, 384, 48), TextConfig(32, 64, 2, 4, 48)
)
MINI_NOCLS = ModelConfig(
    "mini_nocls",
    VisionConfig(56, 14, 192, 3, 2, 1120, 40, class_token=False),
    TextConfig(72, 64, 2, 4, 40),
)
MINI_LANG = VisionConfig(
    64, 16, 96, 3, 3, 384, None, pool="none", final_norm=False, layer_scale=True
)


def tower_state(tower: torch.nn.Module, prefix: str = "") -> dict[str, torch.Tensor]:
    """The tower's tensors by name; in a released file `prefix` stands before the names."""
    return {
        name: torch.from_numpy(recipe.weight(prefix + name, tuple(value.shape)))
        for name, value in tower.state_dict().items()
    }


def model_state(config: ModelConfig) -> dict[str, torch.Tensor]:
    """The tensors of the towers, named as in a released file."""
    with torch.device("meta"):
        vision = VisionTower(config.vision)
        text = TextTower(config.text) if config.text else None
    if text is None:
        return tower_state(vision)
    images = tower_state(vision, "visual.")
    return {f"visual.{name}": tensor for name, tensor in images.items()} | tower_state(text)
