import pytest
import torch

from perception_search.encoder.config import MODELS
from perception_search.encoder.towers import TextTower, VisionTower

# Perception Encoder's model cards and checkpoints: image, patch, width, depth, heads and MLP of the
# vision tower, its parameters and tensors, those of both towers, dimension, context.
RELEASED = {
    "PE-Core-T16-384": (
        (384, 16, 192, 12, 3, 768), (6_140_544, 163), (69_545_601, 313), 512, 32),
    "PE-Core-S16-384": (
        (384, 16, 384, 12, 6, 1536), (23_782_656, 163), (87_187_713, 313), 512, 32),
    "PE-Core-B16-224": (
        (224, 16, 768, 12, 12, 3072), (93_672_960, 163), (447_659_521, 457), 1024, 32),
    "PE-Core-L14-336": (
        (336, 14, 1024, 24, 16, 4096), (317_151_232, 307), (671_137_793, 601), 1024, 32),
    "PE-Core-G14-448": (
        (448, 14, 1536, 50, 16, 8960), (1_882_032_640, 618), (2_419_266_561, 912), 1280, 72),
    "PE-Lang-L14-448": ((448, 14, 1024, 23, 16, 4096), (291_415_040, 327), None, None, None),
    "PE-Lang-L14-448-Tiling": ((448, 14, 1024, 23, 16, 4096), (291_415_040, 327), None, None, None),
    "PE-Lang-G14-448": ((448, 14, 1536, 47, 16, 8960), (1_740_922_624, 662), None, None, None),
    "PE-Lang-G14-448-Tiling": (
        (448, 14, 1536, 47, 16, 8960), (1_740_922_624, 662), None, None, None),
    "PE-Spatial-T16-512": ((512, 16, 192, 12, 3, 768), (5_683_200, 149), None, None, None),
    "PE-Spatial-S16-512": ((512, 16, 384, 12, 6, 1536), (21_983_232, 149), None, None, None),
    "PE-Spatial-B16-512": ((512, 16, 768, 12, 12, 3072), (86_433_792, 149), None, None, None),
    "PE-Spatial-L14-448": ((448, 14, 1024, 24, 16, 4096), (303_964_160, 293), None, None, None),
    "PE-Spatial-G14-448": ((448, 14, 1536, 50, 16, 8960), (1_851_887_104, 704), None, None, None),
}  # fmt: skip
with_text = pytest.mark.parametrize("name", [name for name in RELEASED if "Core" in name])


def counts(tower: torch.nn.Module) -> tuple[int, int]:
    return sum(p.numel() for p in tower.parameters()), len(tower.state_dict())


def test_the_table_lists_the_released_models_family_by_family_smallest_first():
    assert list(MODELS) == list(RELEASED)
    assert all(name == model.name for name, model in MODELS.items())


@pytest.mark.parametrize("name", RELEASED)
def test_every_model_is_that_of_its_card(name):
    shape, vision, both, dim, context = RELEASED[name]
    model = MODELS[name]
    tower = model.vision
    assert shape == (
        tower.image_size,
        tower.patch_size,
        tower.width,
        tower.depth,
        tower.num_heads,
        tower.mlp_width,
    )
    with torch.device("meta"):
        assert counts(VisionTower(tower)) == vision
    assert tower.num_parameters == vision[0]
    assert model.num_parameters == (both or vision)[0]
    assert model.dim == tower.output_dim == dim
    assert (model.text and model.text.context_length) == context


@with_text
def test_both_towers_together_have_the_parameters_and_tensors_of_the_release(name):
    _, vision, both, _, _ = RELEASED[name]
    text = MODELS[name].text
    with torch.device("meta"):
        tower = counts(TextTower(text))
    assert (vision[0] + tower[0], vision[1] + tower[1]) == both
    assert text.num_parameters == tower[0]


def test_the_families_are_told_by_what_their_towers_end_in():
    for name, model in MODELS.items():
        vision = model.vision
        assert model.family == name.split("-")[1].lower()
        ends = (vision.pool, vision.final_norm, vision.output_dim is None, model.text is None)
        is_core = model.family == "core"
        assert ends == (
            ("attention", True, False, False) if is_core else ("none", False, True, True)
        )
        assert vision.layer_scale == (model.family == "lang" or name == "PE-Spatial-G14-448")
        assert vision.class_token == ("-G14-" not in name)


def test_a_model_says_what_one_chooses_it_by():
    assert MODELS["PE-Core-B16-224"].as_dict() == {
        "name": "PE-Core-B16-224",
        "family": "core",
        "image_size": 224,
        "patch_size": 16,
        "width": 768,
        "depth": 12,
        "num_heads": 12,
        "mlp_width": 3072,
        "dim": 1024,
        "context_length": 32,
        "text_width": 1024,
        "text_depth": 24,
        "num_vision_parameters": 93_672_960,
        "num_text_parameters": 353_986_561,
        "licence": "Apache-2.0",
        "hub_name": "facebook/PE-Core-B16-224",
    }
    described = MODELS["PE-Lang-G14-448-Tiling"].as_dict()
    assert (
        described["dim"] is described["context_length"] is described["num_text_parameters"] is None
    )
