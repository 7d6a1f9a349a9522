import numpy as np
import pytest
import torch
from golden import recipe
from synthetic import MINI_CLS, MINI_LANG, MINI_NOCLS, tower_state

from perception_search.encoder.base import pool_frames, unit
from perception_search.encoder.cpu_linear import Int8Linear, can_pack, to_int8, to_packed
from perception_search.encoder.layers import rope_angles, rotate, turns_of
from perception_search.encoder.towers import TextTower, VisionTower

MINI = {"mini_cls": MINI_CLS, "mini_nocls": MINI_NOCLS}


def filled(tower, prefix=""):
    tower.load_state_dict(tower_state(tower, prefix), assign=True)
    return tower.requires_grad_(False).eval()


def vision(model):
    return filled(VisionTower(MINI[model].vision), "visual.")


def text(model):
    return filled(TextTower(MINI[model].text))


def image(model, tag, batch, height, width):
    return torch.from_numpy(recipe.image(f"{model}/{tag}", batch, height, width))


def native(model):
    return image(model, "img", 2, *[MINI[model].vision.image_size] * 2)


def token_rows(context_length):
    rows = np.zeros((3, context_length), np.int64)
    texts = [[320, 2368], [320, 1125, 539, 320], range(500, 530)]
    for row, ids in zip(rows, texts, strict=True):
        row[: len(ids) + 2] = [49406, *ids, 49407]
    return torch.from_numpy(rows)


def close(actual, expected, atol=1e-5):
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=atol)


both = pytest.mark.parametrize("model", MINI)


@both
def test_images_are_embedded_as_by_the_reference(model, golden):
    embeddings = vision(model)(native(model)).numpy()
    close(embeddings, golden[f"{model}/encode_image"])
    close(unit(embeddings), golden[f"{model}/encode_image_norm"])


@both
@pytest.mark.parametrize(("array", "tag", "rows", "columns"), [
    ("encode_image_wide_3x6", "img_wide", 3, 6),
    ("encode_image_7x7", "img_big", 7, 7),
])  # fmt: skip
def test_images_of_other_sizes_are_embedded_as_by_the_reference(
    model, array, tag, rows, columns, golden
):
    patch = MINI[model].vision.patch_size
    pixels = image(model, tag, 1, rows * patch, columns * patch)
    close(vision(model)(pixels).numpy(), golden[f"{model}/{array}"])


@both
@pytest.mark.parametrize(("array", "options"), [
    ("features_norm", {}),
    ("features_raw_strip", {"norm": False, "strip_class_token": True}),
    ("features_layer1_norm", {"layer": 1}),
    ("features_layer_m2", {"norm": False, "layer": -2}),
])  # fmt: skip
def test_token_features_are_those_of_the_reference(model, array, options, golden):
    close(vision(model).features(native(model), **options).numpy(), golden[f"{model}/{array}"])


@both
def test_the_position_table_is_resampled_as_by_the_reference(model, golden):
    close(vision(model).positions(3, 6).numpy(), golden[f"{model}/posemb_3x6"])


@both
def test_rotation_angles_are_those_of_the_reference(model, golden):
    config = MINI[model].vision
    angles = rope_angles(
        2, 3, config.width // config.num_heads, class_token=config.class_token
    )  # one angle per pair of channels, the reference has it per channel
    close(angles.repeat_interleave(2, dim=-1).numpy(), golden[f"{model}/rope_freq_2x3"])


def test_a_rotation_turns_neighbouring_channels_as_a_matrix_would():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 5, 3, 8, generator=generator)
    angles = torch.randn(5, 4, generator=generator)
    expected = torch.empty_like(x)
    for token in range(5):
        for pair in range(4):
            angle = angles[token, pair]
            matrix = torch.tensor([[angle.cos(), -angle.sin()], [angle.sin(), angle.cos()]])
            channels = slice(2 * pair, 2 * pair + 2)
            expected[:, token, :, channels] = x[:, token, :, channels] @ matrix.T
    turns = turns_of(angles)[:, None]
    close(rotate(x, turns).numpy(), expected.numpy(), atol=1e-6)


@both
def test_texts_are_embedded_as_by_the_reference(model, golden):
    rows = token_rows(MINI[model].text.context_length)
    close(text(model)(rows).numpy(), golden[f"{model}/encode_text"])
    close(text(model)(rows[:2, :10]).numpy(), golden[f"{model}/encode_text_short_pad10"])


@both
def test_logits_are_those_of_the_reference(model, golden):
    tower = text(model)
    texts = unit(tower(token_rows(MINI[model].text.context_length)).numpy())
    images = unit(vision(model)(native(model)).numpy())
    logits = tower.logit_scale.exp().item() * images @ texts.T
    close(logits, golden[f"{model}/logits"], atol=5e-5)


@both
def test_videos_are_pooled_as_by_the_reference(model, golden):
    size = MINI[model].vision.image_size
    embeddings = vision(model)(image(model, "vid", 6, size, size)).numpy().reshape(2, 3, -1)
    close(embeddings.mean(axis=1), golden[f"{model}/encode_video_raw"])
    close(pool_frames(embeddings, "raw-frames"), unit(golden[f"{model}/encode_video_raw"]))
    close(pool_frames(embeddings, "unit-frames"), golden[f"{model}/encode_video_norm"])


def test_a_tower_without_pooling_returns_the_tokens_of_the_reference(golden):
    tower = filled(VisionTower(MINI_LANG))
    pixels = image("mini_lang", "img", 1, 64, 64)
    close(tower(pixels).numpy(), golden["mini_lang/forward"])
    stripped = tower.features(pixels, strip_class_token=True)
    close(stripped.numpy(), golden["mini_lang/features_strip"])


def test_what_follows_the_end_of_a_text_does_not_matter():
    rows = token_rows(32)
    noisy = rows.clone()
    noisy[0, 4:] = 7
    tower = text("mini_cls")
    close(tower(noisy).numpy(), tower(rows).numpy())


def test_columns_behind_the_longest_text_are_not_computed():
    tower = text("mini_cls")
    lengths = []
    tower.transformer.register_forward_pre_hook(lambda _, inputs: lengths.append(len(inputs[0][0])))
    tower(token_rows(32)[:2])
    assert lengths == [6]


def test_a_row_longer_than_the_context_is_refused():
    with pytest.raises(ValueError, match="rows of 33 tokens; at most 32"):
        text("mini_cls")(torch.zeros(1, 33, dtype=torch.int64))


def test_pixels_that_patches_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="64 x 65; both must be multiples of the patch size, 16"):
        vision("mini_cls")(torch.zeros(1, 3, 64, 65))
    with pytest.raises(ValueError, match=r"shape \(3, 64, 64\); must be \(B, 3, H, W\)"):
        vision("mini_cls")(torch.zeros(3, 64, 64))


def test_a_block_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="layer=3; this tower has blocks 0 to 2"):
        vision("mini_cls").features(native("mini_cls"), layer=3)


def test_an_int8_layer_gives_the_float_layer_to_within_one_step_of_its_inputs():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, 256, generator=generator)
    weight, bias = torch.randn(64, 256, generator=generator), torch.randn(64, generator=generator)
    layer = Int8Linear(weight, bias)
    steps = 127 if layer.reduce_range else 255
    exact = torch.nn.functional.linear(x, weight, bias)
    error = (layer(x) - exact).pow(2).mean().sqrt()
    step = (x.max() - x.min()) / steps  # rounding has a deviation of step / sqrt(12)
    assert error < step * weight.pow(2).sum(1).mean().sqrt()


@both
def test_int8_towers_keep_close_to_float32(model):
    for tower, given in (
        (vision(model), native(model)),
        (text(model), token_rows(MINI[model].text.context_length)),
    ):
        exact = tower(given)
        to_int8(tower)
        cosines = torch.nn.functional.cosine_similarity(tower(given), exact)
        assert cosines.min() > 0.995


@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_towers_give_the_same_numbers(model, dtype):
    if not can_pack(dtype):
        pytest.skip(f"this processor has no packed layers of {dtype}")
    rows = token_rows(MINI[model].text.context_length)
    for tower, given in ((vision(model), native(model).to(dtype)), (text(model), rows)):
        tower = tower.to(dtype)
        plain = tower(given)
        to_packed(tower)
        assert not any(
            name.endswith("in_proj_weight") for name, _ in tower.transformer.named_parameters()
        )
        close(tower(given).numpy(), plain.numpy(), atol=1e-5 if dtype == torch.float32 else 2e-2)
