import pytest

from perception_search.encoder.config import MODELS
from perception_search.encoder.names import names_elsewhere, resolve_name
from perception_search.errors import ModelNotFound


@pytest.mark.parametrize(
    ("given", "released"),
    [
        ("PE-Core-B16-224", "PE-Core-B16-224"),
        ("pe-core-b16-224", "PE-Core-B16-224"),
        ("facebook/PE-Core-L14-336", "PE-Core-L14-336"),
        ("facebook/PE-Lang-G14-448-Tiling", "PE-Lang-G14-448-Tiling"),
        ("PE-Core-T-16-384", "PE-Core-T16-384"),
        ("PE-Core-S-16-384", "PE-Core-S16-384"),
        ("PE-Core-B-16", "PE-Core-B16-224"),
        ("PE-Core-L-14-336", "PE-Core-L14-336"),
        ("PE-Core-bigG-14-448", "PE-Core-G14-448"),
        ("hf-hub:timm/PE-Core-bigG-14-448", "PE-Core-G14-448"),
        ("vit_pe_core_large_patch14_336", "PE-Core-L14-336"),
        ("timm/vit_pe_core_base_patch16_224.fb", "PE-Core-B16-224"),
        ("vit_pe_lang_large_patch14_448.fb", "PE-Lang-L14-448"),
        ("vit_pe_lang_large_patch14_448.fb_tiling", "PE-Lang-L14-448-Tiling"),
        ("vit_pe_spatial_tiny_patch16_512.fb", "PE-Spatial-T16-512"),
        ("vit_pe_spatial_gigantic_patch14_448", "PE-Spatial-G14-448"),
        ("rope_i_vit_l14_pn_aps_c1_pe-core", "PE-Core-L14-336"),
        ("birder-project/rope_i_vit_s16_pn_aps_c1_pe-core", "PE-Core-S16-384"),
        ("rope_i_vit_reg1_b16_pn_npn_avg_c1_pe-spatial", "PE-Spatial-B16-512"),
        ("pe_spatial_t16", "PE-Spatial-T16-512"),
    ],
)
def test_a_model_is_known_by_the_names_others_use(given, released):
    assert resolve_name(given) == released


def test_no_two_models_share_a_name():
    names = [name.lower() for model in MODELS for name in (model, *names_elsewhere(model))]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    "name", ["PE-Core-B16", "google/PE-Core-B16-224", "vit_base_patch16_224", ""]
)
def test_an_unknown_name_is_answered_with_the_known_ones(name):
    with pytest.raises(ModelNotFound, match=f"no model '{name}'; known: PE-Core-T16.*Spatial-G14"):
        resolve_name(name)


def test_a_name_that_is_not_released_has_no_others():
    assert names_elsewhere("mini") == []
