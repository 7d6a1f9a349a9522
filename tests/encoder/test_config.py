import pytest
import torch

from perception_search.encoder.config import MODELS, VisionConfig, resolve_name
from perception_search.encoder.towers import TextTower, VisionTower
from perception_search.errors import ModelNotFound

# model: parameters and tensors of the vision tower, of both towers
RELEASED = {
    "PE-Core-T16-384": (6_140_544, 163, 69_545_601, 313),
    "PE-Core-S16-384": (23_782_656, 163, 87_187_713, 313),
    "PE-Core-B16-224": (93_672_960, 163, 447_659_521, 457),
    "PE-Core-L14-336": (317_151_232, 307, 671_137_793, 601),
    "PE-Core-G14-448": (1_882_032_640, 618, 2_419_266_561, 912),
}


def counts(tower: torch.nn.Module) -> tuple[int, int]:
    return sum(p.numel() for p in tower.parameters()), len(tower.state_dict())


@pytest.mark.parametrize("name", RELEASED)
def test_every_model_has_the_parameters_and_tensors_of_its_release(name):
    with torch.device("meta"):
        vision, text = VisionTower(MODELS[name].vision), TextTower(MODELS[name].text)
    vision_parameters, vision_tensors = counts(vision)
    text_parameters, text_tensors = counts(text)
    assert (
        vision_parameters,
        vision_tensors,
        vision_parameters + text_parameters,
        vision_tensors + text_tensors,
    ) == RELEASED[name]


@pytest.mark.parametrize(
    ("config", "parameters", "tensors"),
    [
        (
            VisionConfig(
                448, 14, 1024, 23, 16, 4096, None, pool="none", final_norm=False, layer_scale=True
            ),
            291_415_040,
            327,
        ),
        (
            VisionConfig(512, 16, 192, 12, 3, 768, None, pool="none", final_norm=False),
            5_683_200,
            149,
        ),
    ],
    ids=["PE-Lang-L14-448", "PE-Spatial-T16-512"],
)
def test_the_tower_can_be_one_that_returns_tokens(config, parameters, tensors):
    with torch.device("meta"):
        assert counts(VisionTower(config)) == (parameters, tensors)
    assert config.num_parameters == parameters


def test_the_table_lists_the_released_models_smallest_first():
    assert list(MODELS) == list(RELEASED)
    assert all(name == model.name for name, model in MODELS.items())


def test_both_towers_of_a_model_end_in_the_same_space():
    assert all(m.dim == m.vision.output_dim == m.text.output_dim for m in MODELS.values())


@pytest.mark.parametrize(
    ("given", "released"),
    [
        ("PE-Core-B16-224", "PE-Core-B16-224"),
        ("facebook/PE-Core-L14-336", "PE-Core-L14-336"),
        ("PE-Core-T-16-384", "PE-Core-T16-384"),
        ("PE-Core-S-16-384", "PE-Core-S16-384"),
        ("PE-Core-B-16", "PE-Core-B16-224"),
        ("PE-Core-L-14-336", "PE-Core-L14-336"),
        ("PE-Core-bigG-14-448", "PE-Core-G14-448"),
    ],
)
def test_a_model_is_known_by_the_names_others_use(given, released):
    assert resolve_name(given) == released


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(ModelNotFound, match=r"no model 'PE-Core-B16'; known: PE-Core-T16.*G14"):
        resolve_name("PE-Core-B16")


def test_the_parameters_are_known_without_building_the_towers():
    for name, (vision_parameters, _, parameters, _) in RELEASED.items():
        model = MODELS[name]
        assert model.vision.num_parameters == vision_parameters
        assert model.vision.num_parameters + model.text.num_parameters == parameters


def test_a_model_says_what_one_chooses_it_by():
    model = MODELS["PE-Core-B16-224"]
    assert str(model) == "PE-Core-B16-224: 224 px, dim 1024, 94 M + 354 M parameters"
    assert model.as_dict() == {
        "name": "PE-Core-B16-224",
        "image_size": 224,
        "dim": 1024,
        "context_length": 32,
        "num_vision_parameters": 93_672_960,
        "num_text_parameters": 353_986_561,
    }
