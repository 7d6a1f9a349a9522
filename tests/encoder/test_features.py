"""Features at any layer and size, against the reference's arrays and against the tower itself."""

import itertools
from types import MappingProxyType

import numpy as np
import pytest
import torch
from golden import recipe
from PIL import Image
from safetensors.torch import save_file
from synthetic import MINI_CLS, MINI_LANG, MINI_NOCLS, T16, model_state, tower_state

from perception_search.encoder import features, towers
from perception_search.encoder.config import MODELS, ModelConfig
from perception_search.encoder.features import FeatureExtractor, map_of
from perception_search.errors import MediaError, ModelNotFound, WeightsNotFound
from perception_search.frames import prepare_image

LANG = ModelConfig("mini_lang", MINI_LANG)
MINI = {model.name: model for model in (MINI_CLS, MINI_NOCLS, LANG)}


@pytest.fixture(scope="module")
def mini_weights(tmp_path_factory):
    """The small models' weights files by name, as released: of both towers, or of one bare one."""
    folder = tmp_path_factory.mktemp("mini")
    for model in (MINI_CLS, MINI_NOCLS):
        save_file(model_state(model), folder / f"{model.name}.safetensors")
    with torch.device("meta"):
        tower = towers.VisionTower(MINI_LANG)
    save_file(tower_state(tower), folder / "mini_lang.safetensors")
    return folder


@pytest.fixture
def mini(mini_weights, monkeypatch):
    """Makes the extractor of a small model, which is released here."""
    monkeypatch.setattr(features, "MODELS", MappingProxyType(MINI))
    monkeypatch.setattr(features, "resolve_name", lambda name: name)

    def make(name):
        return FeatureExtractor(name, weights=mini_weights, device="cpu", dtype="float32")

    return make


@pytest.fixture
def feed(monkeypatch):
    """Pictures of a size whose pixels, once they are floats, are an input of the reference."""

    def feed(tag, batch, height, width):
        floats = torch.from_numpy(recipe.image(tag, batch, height, width))
        monkeypatch.setattr(towers, "to_unit_range", lambda _, dtype: floats.to(dtype))
        return [Image.new("RGB", (width, height))] * batch

    return feed


def close(actual, expected, atol=1e-5):
    assert actual.shape == expected.shape
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, expected, rtol=0, atol=atol)


def pixels_of(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


# Against the reference


@pytest.mark.parametrize("name", ["mini_cls", "mini_nocls"])
@pytest.mark.parametrize(("array", "options"), [
    ("features_norm", {}),
    ("features_raw_strip", {"norm": False, "class_token": False}),
    ("features_layer1_norm", {"layer": 1}),
    ("features_layer_m2", {"norm": False, "layer": -2}),
])  # fmt: skip
def test_tokens_are_those_of_the_reference(mini, feed, golden, name, array, options):
    size = MINI[name].vision.image_size
    pictures = feed(f"{name}/img", 2, size, size)
    close(mini(name).encode_tokens(pictures, **options), golden[f"{name}/{array}"])


@pytest.mark.parametrize("name", ["mini_cls", "mini_nocls"])
def test_a_map_is_the_tokens_of_the_reference_in_their_places(mini, feed, golden, name):
    size = MINI[name].vision.image_size
    maps = mini(name).encode_map(feed(f"{name}/img", 2, size, size))
    tokens = golden[f"{name}/features_raw_strip"]
    assert maps.shape == (2, tokens.shape[2], 4, 4)
    for row in range(4):
        for column in range(4):
            close(maps[:, :, row, column], tokens[:, 4 * row + column])


@pytest.mark.parametrize("name", ["mini_cls", "mini_nocls"])
@pytest.mark.parametrize(("array", "tag", "rows", "columns"), [
    ("encode_image", "img", 4, 4),
    ("encode_image_wide_3x6", "img_wide", 3, 6),
    ("encode_image_7x7", "img_big", 7, 7),
])  # fmt: skip
def test_pooled_and_projected_they_are_the_embeddings_of_the_reference(
    mini, feed, golden, name, array, tag, rows, columns
):
    patch = MINI[name].vision.patch_size
    size = rows * patch, columns * patch
    expected = golden[f"{name}/{array}"]
    pooled = mini(name).encode_pooled(feed(f"{name}/{tag}", len(expected), *size), size=size)
    assert pooled.shape == (len(expected), MINI[name].vision.width)
    close(pooled @ model_state(MINI[name])["visual.proj"].numpy(), expected)


def test_a_tower_without_pooling_gives_the_tokens_of_the_reference(mini, feed, golden):
    extractor, pictures = mini("mini_lang"), feed("mini_lang/img", 1, 64, 64)
    close(extractor.encode_tokens(pictures), golden["mini_lang/forward"])
    close(extractor.encode_tokens(pictures, norm=False), golden["mini_lang/forward"])
    stripped = extractor.encode_tokens(pictures, class_token=False)
    close(stripped, golden["mini_lang/features_strip"])
    close(extractor.encode_map(pictures), map_of(golden["mini_lang/forward"], (4, 4)))


def test_a_released_model_gives_the_features_of_the_reference(t16_files, feed, golden):
    weights = t16_files["safetensors"]
    extractor = FeatureExtractor(T16.name, weights=weights, device="cpu", dtype="float32")
    tokens = extractor.encode_tokens(feed(f"{T16.name}/img", 1, 384, 384))
    assert tokens.shape == (1, 577, 192)
    close(tokens[0, :3], golden[f"{T16.name}/features_norm_first3tok"])
    proj = model_state(T16)["visual.proj"].numpy()
    for tag, size, array in (("img", 384, "encode_image"), ("img512", 512, "encode_image_512")):
        pictures = feed(f"{T16.name}/{tag}", 1, size, size)
        pooled = extractor.encode_pooled(pictures, size=(size, size))
        close(pooled @ proj, golden[f"{T16.name}/{array}"])


# Pictures


@pytest.fixture(scope="module")
def spatial_weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("spatial") / "PE-Spatial-T16-512.safetensors"
    with torch.device("meta"):
        tower = towers.VisionTower(MODELS["PE-Spatial-T16-512"].vision)
    save_file(tower_state(tower), path)
    return path


@pytest.fixture(scope="module")
def spatial(spatial_weights):
    return FeatureExtractor(
        "PE-Spatial-T16-512", weights=spatial_weights, device="cpu", dtype="float32"
    )


def test_pictures_are_squashed_to_the_size_and_brought_to_minus_one_to_one(spatial):
    picture = recipe.picture("RGB", 100, 60)
    tokens = spatial.encode_tokens([picture], size=(48, 96))
    squashed = picture.resize((96, 48), Image.Resampling.BILINEAR)
    floats = (np.asarray(squashed, np.float32) / 255 - 0.5) / 0.5
    with torch.inference_mode():
        expected = spatial.tower.features(torch.from_numpy(floats.transpose(2, 0, 1)[None].copy()))
    close(tokens, expected.numpy(), atol=2e-5)
    assert tokens.shape == (1, 1 + 3 * 6, 192)


def test_the_pixels_of_the_frame_spec_are_encoded_as_they_are(spatial):
    picture = recipe.picture("RGB", 100, 60)
    spec = spatial.frame_spec((48, 96))
    assert (spec.height, spec.width, spec.resize, spec.fast_jpeg) == (48, 96, "squash", False)
    pixels = prepare_image(picture, spec).transpose(1, 2, 0)
    by_array = spatial.encode_tokens([pixels], size=(48, 96))
    np.testing.assert_array_equal(by_array, spatial.encode_tokens([picture], size=(48, 96)))


@pytest.mark.parametrize("size", [(16, 16), (16, 80), (112, 48)])
def test_any_multiple_of_the_patch_is_a_size(spatial, size):
    rows, columns = size[0] // 16, size[1] // 16
    assert spatial.grid(size) == (rows, columns)
    picture = pixels_of(30, 40, 3)
    tokens = spatial.encode_tokens([picture], size=size, class_token=False)
    assert tokens.shape == (1, rows * columns, 192)
    maps = spatial.encode_map([picture], size=size)
    assert maps.shape == (1, 192, rows, columns)
    np.testing.assert_array_equal(maps[0, :, -1, -1], tokens[0, -1])


def test_the_size_is_the_models_own_if_none_is_given(spatial):
    assert spatial.grid() == (32, 32)
    assert spatial.encode_map([pixels_of(20, 20, 3)]).shape == (1, 192, 32, 32)


def test_what_a_map_shows_on_the_left_is_on_the_left(spatial):
    pixels = np.zeros((64, 96, 3), np.uint8)
    pixels[:, :16] = 255
    dark = spatial.encode_map([np.zeros_like(pixels)], size=(64, 96), layer=0)
    lit = spatial.encode_map([pixels], size=(64, 96), layer=0)
    changes = np.abs(lit - dark)[0].mean(axis=0)  # (4, 6)
    assert changes[:, 0].min() > 2 * changes[:, 1:].max()


def test_many_pictures_give_what_each_gives_alone(spatial, monkeypatch):
    monkeypatch.setattr(features, "_TOKENS_PER_BATCH", 30)
    pictures = [pixels_of(40, 40 + i, 3, seed=i) for i in range(5)]
    together = spatial.encode_tokens(pictures, size=(48, 64))  # two at a time
    for picture, tokens in zip(pictures, together, strict=True):
        # sums in another order: tokens are as large as 7
        close(spatial.encode_tokens([picture], size=(48, 64))[0], tokens, atol=3e-5)


def test_a_layer_counts_from_either_end_and_stops_there(spatial):
    picture = [pixels_of(32, 32, 3)]
    layers = [spatial.encode_tokens(picture, size=(32, 32), layer=n) for n in range(12)]
    for n, tokens in enumerate(layers):
        back = spatial.encode_tokens(picture, size=(32, 32), layer=n - 12)
        np.testing.assert_array_equal(back, tokens)
    assert all(np.abs(a - b).max() > 0.01 for a, b in itertools.pairwise(layers))


def test_bfloat16_keeps_close_to_float32(spatial, spatial_weights):
    low = FeatureExtractor(
        "PE-Spatial-T16-512", weights=spatial_weights, device="cpu", dtype="bfloat16"
    )
    picture = [pixels_of(64, 64, 3)]
    a, b = (each.encode_tokens(picture, size=(64, 64))[0] for each in (low, spatial))
    assert a.dtype == np.float32
    cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert 0.99 < cosines.min() < cosines.max() < 1


# Errors


@pytest.mark.parametrize("size", [(48, 50), (50, 48), (0, 16), (-16, 16)])
def test_a_size_that_patches_do_not_fit_is_refused(spatial, size):
    said = f"size={size[0]} x {size[1]}; both must be multiples of the patch size of PE-Spatial"
    for call in (spatial.encode_tokens, spatial.encode_map):
        with pytest.raises(ValueError, match=said):
            call([pixels_of(8, 8, 3)], size=size)
    with pytest.raises(ValueError, match=said):
        spatial.grid(size)


@pytest.mark.parametrize("layer", [12, -13])
def test_a_layer_there_is_not_is_refused_before_weights_are_looked_for(layer, monkeypatch):
    monkeypatch.setattr(features, "find_weights", pytest.fail)
    extractor = FeatureExtractor("PE-Spatial-T16-512")
    for call in (extractor.encode_tokens, extractor.encode_map):
        with pytest.raises(ValueError, match=f"layer={layer}; PE-Spatial-T16-512 has blocks 0 to"):
            call([pixels_of(8, 8, 3)], layer=layer)


@pytest.mark.parametrize("name", [name for name in MODELS if "Core" not in name])
def test_a_model_that_does_not_pool_says_so(name):
    with pytest.raises(ValueError, match=f"{name} has no pooling; its tokens can be had"):
        FeatureExtractor(name).encode_pooled([pixels_of(8, 8, 3)])


def test_what_cannot_be_made_is_refused_at_once(tmp_path):
    with pytest.raises(ModelNotFound, match="the starter model has no token features"):
        FeatureExtractor("starter")
    with pytest.raises(ModelNotFound, match="no model 'CLIP'; known: PE-Core"):
        FeatureExtractor("CLIP")
    with pytest.raises(ValueError, match="dtype='int8'; features are float32 or bfloat16"):
        FeatureExtractor("PE-Spatial-T16-512", dtype="int8")
    with pytest.raises(ValueError, match="device='tpu'"):
        FeatureExtractor("PE-Spatial-T16-512", device="tpu")
    with pytest.raises(WeightsNotFound, match="holds no weights of PE-Spatial-T16-512"):
        FeatureExtractor("PE-Spatial-T16-512", weights=tmp_path)


def test_what_is_no_list_of_pictures_is_refused(spatial, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff\xe0 nothing")
    with pytest.raises(MediaError, match=r"broken\.jpg cannot be read"):
        spatial.encode_tokens([broken])
    with pytest.raises(FileNotFoundError):
        spatial.encode_tokens([tmp_path / "missing.jpg"])
    with pytest.raises(TypeError, match="pass a list"):
        spatial.encode_tokens(str(broken))
    with pytest.raises(ValueError, match="no pictures; pass at least one"):
        spatial.encode_map([])
