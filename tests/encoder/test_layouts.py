"""Files in other libraries' layouts against the release's tensors."""

import functools
from types import MappingProxyType

import numpy as np
import pytest
import torch
from other_layouts import LAYOUTS, in_birder, in_timm, text_of, vision_of
from safetensors.torch import save_file
from synthetic import MINI_CLS, MINI_LANG, MINI_NOCLS, model_state, tower_state

from perception_search.encoder import features
from perception_search.encoder.config import ModelConfig, VisionConfig
from perception_search.encoder.features import FeatureExtractor
from perception_search.encoder.towers import VisionTower
from perception_search.encoder.weights import find_weights, load_tower, tower_sha256, tower_tensors
from perception_search.errors import WeightsMismatch

CPU_FLOAT32 = {"device": torch.device("cpu"), "dtype": torch.float32}
LANG = ModelConfig("mini_lang", MINI_LANG)
SPATIAL = ModelConfig(
    "mini_spatial", VisionConfig(64, 16, 96, 3, 3, 384, None, pool="none", final_norm=False)
)
OTHER = ModelConfig(  # of MINI_CLS's keys, and of another width
    "mini_other", VisionConfig(64, 16, 48, 3, 3, 192, 48), MINI_CLS.text
)
CORE = [MINI_CLS, MINI_NOCLS]
IDS = [model.name for model in CORE]


released = functools.cache(model_state)
each_core_model = pytest.mark.parametrize("model", CORE, ids=IDS)
each_layout = pytest.mark.parametrize("layout", LAYOUTS)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The file of a model by its name and layout."""
    folder = tmp_path_factory.mktemp("layouts")
    paths = {}
    for model in CORE:
        state = released(model)
        for layout, write in LAYOUTS.items():
            path = folder / f"{model.name} {layout}.safetensors"
            save_file({key: tensor.contiguous() for key, tensor in write(state).items()}, path)
            paths[model.name, layout] = path
    return paths


def changed(state, **changes):
    return {key: t for key, t in (state | changes).items() if t is not None}


def saved(state, path):
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, path)
    return path


def equal(actual, expected):
    return actual.keys() == expected.keys() and all(
        torch.equal(actual[name], tensor) for name, tensor in expected.items()
    )


@each_core_model
@each_layout
def test_a_file_in_each_layout_gives_the_tensors_of_the_release(files, model, layout):
    state = released(model)
    path, meta = files[model.name, layout], files[model.name, "Meta"]
    vision = load_tower(path, model, "vision", projection=meta, **CPU_FLOAT32)
    text = load_tower(path, model, "text", projection=meta, **CPU_FLOAT32)
    assert equal(vision.state_dict(), vision_of(state))
    assert equal(text.state_dict(), text_of(state))
    for tower in ("vision", "text"):
        expected = tower_sha256(meta, model, tower)
        assert tower_sha256(path, model, tower, projection=meta) == expected


@each_core_model
def test_layouts_that_hold_all_need_no_projection(files, model):
    for layout in ("Meta's vision tower", "open_clip", "timm"):
        path = files[model.name, layout]
        expected = tower_sha256(files[model.name, "Meta"], model, "vision")
        assert tower_sha256(path, model, "vision") == expected
    path = files[model.name, "open_clip"]
    expected = tower_sha256(files[model.name, "Meta"], model, "text")
    assert tower_sha256(path, model, "text") == expected


@each_layout
@pytest.mark.parametrize(
    ("prefix", "wrapper"),
    [("", "state"), ("module.", "state_dict"), ("timm_model.", None), ("module.", "weights")],
)
def test_wrappers_around_a_layout_are_looked_through(tmp_path, files, layout, prefix, wrapper):
    state = {prefix + k: v for k, v in LAYOUTS[layout](released(MINI_CLS)).items()}
    path, meta = tmp_path / "weights.pt", files[MINI_CLS.name, "Meta"]
    torch.save(state if wrapper is None else {wrapper: state, "signature": {"inputs": []}}, path)
    tensors = dict(tower_tensors(path, MINI_CLS, "vision", projection=meta))
    assert equal(tensors, vision_of(released(MINI_CLS)))


@pytest.mark.parametrize("model", [LANG, SPATIAL], ids=["lang", "spatial"])
def test_towers_without_pooling_are_read_in_the_layouts_that_have_them(tmp_path, model):
    with torch.device("meta"):
        tower = VisionTower(model.vision)
    state = tower_state(tower)
    layouts = {"Meta": state, "timm": in_timm(state)}
    if model is SPATIAL:  # birder has no PE-Lang
        layouts["birder"] = in_birder(state)
        assert "reg_tokens" in layouts["birder"]
    for layout, theirs in layouts.items():
        path = saved(theirs, tmp_path / f"{layout}.safetensors")
        assert equal(dict(tower_tensors(path, model, "vision")), state)


def test_a_folder_as_a_library_saves_it_is_a_place_for_weights(tmp_path, files):
    for layout, name in (("open_clip", "open_clip_model"), ("timm", "model")):
        folder = tmp_path / layout
        folder.mkdir()
        path = folder / f"{name}.safetensors"
        path.write_bytes(files[MINI_CLS.name, layout].read_bytes())
        (folder / "config.json").write_text("{}")
        assert find_weights(MINI_CLS.name, folder) == path


# What a file lacks


def test_without_projection_embeddings_are_refused_and_the_way_out_is_said(files):
    path = files[MINI_CLS.name, "birder"]
    message = (
        f"{path} is mini_cls in birder's layout, without the projection: it gives features. "
        ".* projection=FILE, --projection FILE$"
    )
    for read in (load_embeddings, lambda path: tower_sha256(path, MINI_CLS, "vision")):
        with pytest.raises(WeightsMismatch, match=message):
            read(path)


def load_embeddings(path):
    return load_tower(path, MINI_CLS, "vision", **CPU_FLOAT32)


def test_the_projection_may_come_from_any_layout_that_has_it(files):
    path = files[MINI_CLS.name, "birder"]
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        expected = load_embeddings(files[MINI_CLS.name, "Meta"])(pixels)
        for layout in ("Meta", "Meta's vision tower", "open_clip", "timm"):
            projection = files[MINI_CLS.name, layout]
            tower = load_tower(path, MINI_CLS, "vision", projection=projection, **CPU_FLOAT32)
            torch.testing.assert_close(tower(pixels), expected, atol=1e-6, rtol=0)


def test_a_projection_that_has_none_is_called_so(files):
    path = files[MINI_CLS.name, "birder"]
    with pytest.raises(WeightsMismatch, match=f"{path} holds no projection, nor does {path}; "):
        load_tower(path, MINI_CLS, "vision", projection=path, **CPU_FLOAT32)


def test_a_projection_of_another_model_is_refused_by_its_own_path(tmp_path, files):
    projection = saved(released(OTHER), tmp_path / "other.safetensors")
    message = (
        rf"{projection} is not the vision tower of mini_cls: visual.proj has shape \(48, 48\), "
        r"not \(96, 48\)"
    )
    path = files[MINI_CLS.name, "birder"]
    with pytest.raises(WeightsMismatch, match=message):
        load_tower(path, MINI_CLS, "vision", projection=projection, **CPU_FLOAT32)


def test_another_models_file_without_projection_is_not_taken_for_this_ones(tmp_path):
    path = saved(in_birder(vision_of(released(OTHER))), tmp_path / "other.safetensors")
    with pytest.raises(WeightsMismatch, match=f"{path} is not the vision tower of mini_cls: "):
        load_embeddings(path)


def test_the_text_tower_comes_from_the_projection_only_where_the_weights_have_none(tmp_path, files):
    meta = files[MINI_CLS.name, "Meta"]
    state = released(MINI_CLS)
    state = changed(state, text_projection=state["text_projection"] + 1)
    other = saved(state, tmp_path / "other.safetensors")
    own, others = (tower_sha256(path, MINI_CLS, "text") for path in (meta, other))
    assert own != others
    for layout in LAYOUTS:
        path = files[MINI_CLS.name, layout]
        has_text = layout in ("Meta", "open_clip")
        assert tower_sha256(path, MINI_CLS, "text") == (own if has_text else "")
        given = tower_sha256(path, MINI_CLS, "text", projection=other)
        assert given == (own if has_text else others)
        if not has_text:
            with pytest.raises(WeightsMismatch, match=r"holds no text tower .* --projection FILE"):
                load_tower(path, MINI_CLS, "text", **CPU_FLOAT32)


# What is no Perception Encoder


@pytest.mark.parametrize("layout", ["timm", "open_clip"])
def test_a_head_with_a_bias_is_another_model(tmp_path, files, layout):
    state = LAYOUTS[layout](released(MINI_CLS))
    [key] = [key for key in state if key.endswith("head.bias")]
    state[key][-1] = 1e-6
    path = saved(state, tmp_path / "weights.safetensors")
    with pytest.raises(WeightsMismatch, match=f"{path}: {key} is not zero; .* another model"):
        load_embeddings(path)
    with pytest.raises(WeightsMismatch, match=f"{path}: {key} is not zero; "):
        load_tower(
            files[MINI_CLS.name, "birder"], MINI_CLS, "vision", projection=path, **CPU_FLOAT32
        )


@pytest.mark.parametrize("layout", ["timm", "birder"])
@pytest.mark.parametrize("lost", ["q", "kv"])
def test_half_of_the_pooling_is_none(tmp_path, files, layout, lost):
    state = LAYOUTS[layout](released(MINI_CLS))
    del state[f"attn_pool.{lost}.weight"]
    path = saved(state, tmp_path / "weights.safetensors")
    with pytest.raises(WeightsMismatch, match=r"attn_pool.attn.in_proj_weight is missing"):
        load_tower(path, MINI_CLS, "vision", projection=files[MINI_CLS.name, "Meta"], **CPU_FLOAT32)


@each_layout
def test_a_tensor_that_no_model_has_is_named_as_the_file_names_it(tmp_path, files, layout):
    prefix = {"Meta": "visual.", "open_clip": "visual.trunk."}.get(layout, "")
    key = f"{prefix}blocks.0.attn.q_norm.weight"
    state = changed(LAYOUTS[layout](released(MINI_CLS)), **{key: torch.ones(96)})
    path = saved(state, tmp_path / "weights.safetensors")
    with pytest.raises(WeightsMismatch, match=f"{key} is one too many"):
        load_tower(path, MINI_CLS, "vision", projection=files[MINI_CLS.name, "Meta"], **CPU_FLOAT32)


# Features


@each_core_model
def test_features_are_the_same_from_every_layout(monkeypatch, files, model):
    monkeypatch.setattr(features, "MODELS", MappingProxyType({model.name: model}))
    monkeypatch.setattr(features, "resolve_name", lambda name: name)
    size = model.vision.image_size
    picture = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
    seen = []
    for layout in LAYOUTS:
        extractor = FeatureExtractor(
            model.name, weights=files[model.name, layout], device="cpu", dtype="float32"
        )
        seen.append(
            (
                extractor.encode_tokens([picture]),
                extractor.encode_map([picture]),
                extractor.encode_pooled([picture]),
            )
        )
    for others in seen[1:]:
        for theirs, metas in zip(others, seen[0], strict=True):
            np.testing.assert_allclose(theirs, metas, atol=1e-6)
    assert np.abs(seen[0][2]).mean() > 0.1
