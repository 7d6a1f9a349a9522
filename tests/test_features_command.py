"""`perception-search features`: PE-Spatial-T16 with made-up weights, whose first block passes its
input on: its tokens say what is in their own patch, wherever it is.
"""

import json
import os
import warnings

import numpy as np
import pytest
import torch
from media_folder import colour, write_video
from PIL import Image
from safetensors.torch import save_file
from synthetic import tower_state

from perception_search import durable
from perception_search.encoder.config import MODELS
from perception_search.encoder.features import FeatureExtractor
from perception_search.encoder.towers import VisionTower
from perception_search.feature_pictures import enlarged, pca_colours

MODEL, CORE = "PE-Spatial-T16-512", "PE-Core-T16-384"
SIZE = ("--size", "96x128")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    for name, prefix in ((MODEL, ""), (CORE, "visual.")):
        with torch.device("meta"):
            tower = VisionTower(MODELS[name].vision)
        state = tower_state(tower, prefix)
        if name == MODEL:
            state["positional_embedding"].zero_()
            for part in ("attn.out_proj", "mlp.c_proj"):
                state[f"transformer.resblocks.0.{part}.weight"].zero_()
                state[f"transformer.resblocks.0.{part}.bias"].zero_()
        save_file(
            {prefix + key: tensor for key, tensor in state.items()}, folder / f"{name}.safetensors"
        )
    return folder


@pytest.fixture(autouse=True)
def environment(weights, tmp_path, tmp_path_factory, monkeypatch):
    monkeypatch.setenv("PERCEPTION_SEARCH_WEIGHTS", str(weights))
    monkeypatch.setenv("PERCEPTION_SEARCH_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(run):
    """Run the command in this process: (exit code, stdout, stderr)."""

    def features(*arguments):
        model = () if "--model" in arguments else ("--model", MODEL)
        return run("features", *arguments, *model, "--dtype", "float32")

    return features


@pytest.fixture(scope="module")
def extractor(weights):
    return FeatureExtractor(MODEL, weights=weights, device="cpu", dtype="float32")


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture
def photo(tmp_path):
    """A picture of 150 x 200 pixels, `photo.png`."""
    path = tmp_path / "photo.png"
    Image.fromarray(noise(150, 200)).save(path)
    return path


def objects(text):
    return [json.loads(line) for line in text.splitlines()]


# Arrays


def test_the_tokens_are_put_beside_under_the_name_of_the_picture(run, photo, extractor, tmp_path):
    code, out, err = run(photo, *SIZE)
    assert (code, out, err) == (0, "photo.npy: 1 x 49 x 192 float32\n", "")
    tokens = np.load(tmp_path / "photo.npy")
    np.testing.assert_array_equal(tokens, extractor.encode_tokens([photo], size=(96, 128)))


@pytest.mark.parametrize(("options", "how", "shape"), [
    (["--layer", "3"], {"layer": 3}, (1, 49, 192)),
    (["--layer", "-2", "--no-class-token"], {"layer": -2, "class_token": False}, (1, 48, 192)),
])  # fmt: skip
def test_tokens_are_those_that_were_asked_for(run, photo, extractor, tmp_path, options, how, shape):
    code, out, _ = run(photo, *SIZE, *options, "--out", "tokens.npy", "--json")
    assert code == 0
    assert objects(out) == [{"path": "tokens.npy", "shape": list(shape), "dtype": "float32"}]
    expected = extractor.encode_tokens([photo], size=(96, 128), **how)
    np.testing.assert_array_equal(np.load(tmp_path / "tokens.npy"), expected)


@pytest.mark.parametrize(("options", "norm"), [([], False), (["--norm"], True)])
def test_a_map_is_without_the_last_norm_unless_it_is_asked_for(
    run, photo, weights, tmp_path, options, norm
):
    core = FeatureExtractor(CORE, weights=weights, device="cpu", dtype="float32")
    code, out, _ = run(photo, "--model", CORE, *SIZE, "--map", *options)
    assert (code, out) == (0, "photo.npy: 1 x 192 x 6 x 8 float32\n")
    made = np.load(tmp_path / "photo.npy")
    np.testing.assert_array_equal(made, core.encode_map([photo], size=(96, 128), norm=norm))
    assert np.abs(made - core.encode_map([photo], size=(96, 128), norm=not norm)).max() > 0.1
    run(photo, "--model", CORE, *SIZE, "--no-norm", "--out", "raw.npy")
    run(photo, "--model", CORE, *SIZE, "--out", "normed.npy")
    other = np.load(tmp_path / ("normed.npy" if norm else "raw.npy"))
    np.testing.assert_array_equal(made[0, :, 0, 1], other[0, 2])


def test_the_pooled_vector_of_pe_core_is_given_and_of_no_other(run, photo, weights, tmp_path):
    core = FeatureExtractor(CORE, weights=weights, device="cpu", dtype="float32")
    code, out, _ = run(photo, "--model", CORE, "--pooled", *SIZE)
    assert (code, out) == (0, "photo.npy: 1 x 192 float32\n")
    expected = core.encode_pooled([photo], size=(96, 128))
    np.testing.assert_array_equal(np.load(tmp_path / "photo.npy"), expected)
    code, out, err = run(photo, "--pooled", "--out", "other.npy")
    assert (code, out) == (1, "")
    assert "PE-Spatial-T16-512 has no pooling" in err


def test_the_models_own_size_is_taken_if_none_is_given(run, photo):
    assert run(photo, "--layer", 0)[1] == "photo.npy: 1 x 1025 x 192 float32\n"


def test_a_picture_is_turned_upright(run, photo, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its left side
    with Image.open(photo) as upright:
        upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    run(photo, *SIZE)
    run("turned.png", *SIZE)
    turned = np.load(tmp_path / "turned.npy")
    np.testing.assert_array_equal(turned, np.load(tmp_path / "photo.npy"))
    run("turned.png", *SIZE, "--pca", "colours.png")
    assert Image.open(tmp_path / "colours.png").size == (200, 150)


# Colours


def test_colours_have_the_size_of_the_picture_and_no_array_is_written(
    run, photo, extractor, tmp_path
):
    code, out, err = run(photo, *SIZE, "--layer", 0, "--pca", "colours.png")
    assert (code, out, err) == (0, "colours.png: 150 x 200 pixels\n", "")
    maps = extractor.encode_map([photo], size=(96, 128), layer=0)
    expected = enlarged(pca_colours(maps)[0], (150, 200))
    np.testing.assert_array_equal(Image.open(tmp_path / "colours.png"), expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["colours.png", "photo.png"]


def test_a_picture_that_is_bright_on_the_left_has_another_colour_there(run, tmp_path):
    pixels = noise(96, 128) // 16
    pixels[:, :64] += 200
    Image.fromarray(pixels).save("half.png")
    run("half.png", *SIZE, "--layer", 0, "--pca", "colours.jpg", "--json")
    colours = np.asarray(Image.open(tmp_path / "colours.jpg")).astype(int)
    assert colours.shape == (96, 128, 3)
    left, right = colours[:, :56], colours[:, 72:]
    apart = np.abs(left.mean(axis=(0, 1)) - right.mean(axis=(0, 1))).max()
    assert apart > 80
    assert apart > 2 * max(
        left.mean(axis=1).std(axis=0).max(), right.mean(axis=1).std(axis=0).max()
    )


def test_two_pictures_are_shown_side_by_side_in_the_same_colours(run, photo, tmp_path):
    (tmp_path / "copy.png").write_bytes(photo.read_bytes())
    run(photo, *SIZE, "--match", "copy.png", "--pca", "both.png")
    both = np.asarray(Image.open(tmp_path / "both.png"))
    assert both.shape == (512, 683 + 8 + 683, 3)
    np.testing.assert_array_equal(both[:, :683], both[:, -683:])
    assert (both[:, 683:691] == 255).all()


# Matches


def test_a_shifted_copy_matches_at_the_shift(run, tmp_path):
    scene = noise(112, 160)
    Image.fromarray(scene[:96, :128]).save("left.png")
    Image.fromarray(scene[16:, 32:]).save("right.png")  # what is at x, y there is at x + 32, y + 16
    options = ("--layer", 0, "--match", "right.png", "-k", 48)
    code, out, err = run("left.png", *SIZE, *options, "--json")
    assert (code, err) == (0, "")
    matches = objects(out)
    assert len(matches) == 48
    assert [m["cosine"] for m in matches] == sorted((m["cosine"] for m in matches), reverse=True)
    seen_by_both = matches[: 5 * 6]
    assert all(m["cosine"] > 0.9999 and m["mutual"] for m in seen_by_both)
    assert {(m["x"] - m["other_x"], m["y"] - m["other_y"]) for m in seen_by_both} == {(32, 16)}
    assert matches[5 * 6]["cosine"] < 0.99
    assert sorted(path.name for path in tmp_path.iterdir()) == ["left.png", "right.png"]
    _, out, _ = run("left.png", *SIZE, *options)
    lines = out.splitlines()
    assert lines[0].startswith("1.000  ")
    assert lines[0].endswith("  mutual")
    first = seen_by_both[0]
    assert f"  {first['x']:.0f},{first['y']:.0f}  {first['other_x']:.0f}," in lines[0]
    assert not lines[-1].endswith("mutual")


def test_points_are_pixels_of_the_pictures_as_they_are(run, tmp_path):
    blocks = Image.fromarray(noise(24, 32))
    blocks.resize((384, 240), Image.Resampling.NEAREST).save("large.png")  # tokens of 40 x 48
    blocks.resize((64, 48), Image.Resampling.NEAREST).save("small.png")  # tokens of 8 x 8
    _, out, _ = run("large.png", *SIZE, "--layer", 0, "--match", "small.png", "-k", 100, "--json")
    matches = objects(out)
    assert len(matches) == 48
    for m in matches:
        row, column = divmod(m["token"], 8)
        assert m["token"] == m["other_token"]
        assert (m["x"], m["y"]) == (48 * column + 24, 40 * row + 20)
        assert (m["other_x"], m["other_y"]) == (8 * column + 4, 8 * row + 4)


def test_a_picture_matches_itself_everywhere_and_that_is_drawn(run, photo, tmp_path):
    options = ("--match", photo, "-k", 5, "--match-picture", "matches.png", "--json")
    code, out, _ = run(photo, *SIZE, *options)
    assert code == 0
    written, *matches = objects(out)
    assert written == {"path": "matches.png", "height": 512, "width": 2 * 683 + 8}
    assert len(matches) == 5
    assert all(m["mutual"] and m["cosine"] == pytest.approx(1) for m in matches)
    assert all((m["x"], m["y"]) == (m["other_x"], m["other_y"]) for m in matches)
    drawn = np.asarray(Image.open(tmp_path / "matches.png"))
    shown = np.asarray(Image.open(photo).resize((683, 512), Image.Resampling.BILINEAR))
    changed = (drawn[:, :683] != shown).any(axis=2)
    assert 0 < changed.mean() < 0.1
    # every line is level, from a token to itself; which five are best is for rounding to say
    with Image.open(photo) as picture:
        scale = 512 / picture.height
    heights = np.array([m["y"] * scale for m in matches])
    distances = np.abs(np.flatnonzero(changed.any(axis=1))[:, None] - heights)
    assert distances.min(axis=1).max() < 10
    assert distances.min(axis=0).max() < 2


# What cannot be done


@pytest.mark.parametrize(("arguments", "code", "sentence"), [
    ([], 2, "Missing argument"),
    (["photo.png", "--nonsense"], 2, "--nonsense"),
    (["photo.png", "-k", "0"], 2, "-k"),
    (["photo.png", "--layer", "x"], 2, "--layer"),
    (["photo.png", "--size", "448"], 2, "height x width in pixels, as 448x672"),
    (["photo.png", "--size", "100x128"], 1, "size=100 x 128; both must be multiples of the patch"),
    (["photo.png", "--size", "0x128"], 1, "both must be multiples"),
    (["photo.png", "--layer", "12"], 1, "has blocks 0 to 11, and negative numbers count from"),
    (["photo.png", "--layer=-13"], 1, "has blocks 0 to 11"),
    (["photo.png", "--map", "--pooled"], 2, "it has no variants"),
    (["photo.png", "--pooled", "--layer", "3"], 2, "it has no variants"),
    (["photo.png", "--pooled", "--pca", "x.png"], 2, "are of tokens"),
    (["photo.png", "--match-picture", "x.png"], 2, "give --match PICTURE too"),
    (["photo.png", "--model", "starter"], 1, "the starter model has no token features"),
    (["photo.png", "--model", "CLIP-B32"], 1, "known: PE-Core"),
    (["photo.png", "--model", "PE-Spatial-G14-448"], 1, "PERCEPTION_SEARCH_WEIGHTS"),
    (["photo.png", "--weights", "nowhere"], 1, "holds no weights of PE-Spatial-T16-512"),
    (["photo.png", "--device", "tpu"], 1, "device='tpu'"),
    (["missing.png"], 1, "missing.png does not exist; name a picture"),
    (["photo.png", "--match", "missing.png"], 1, "missing.png does not exist"),
    (["folder", "--out", "a.npy"], 1, "folder: "),
    (["notes.jpg"], 1, "notes.jpg: not a picture"),
    (["broken.jpg"], 1, "broken.jpg: "),
    (["cut.png"], 1, "cut.png: "),
    (["clip.mp4"], 1, "clip.mp4 is a video, and features are of pictures"),
    (["photo.png", "--match", "clip.mp4"], 1, "clip.mp4 is a video"),
    (["photo.png", "--out", "photo.npz"], 1, "photo.npz is to hold an array"),
    (["photo.png", "--pca", "colours.xyz"], 1, "colours.xyz is to be a picture"),
    (["photo.png", "--pca", "colours"], 1, "ends in .png, .jpg, .jpeg, .webp"),
    (["photo.png", "--out", "nowhere/a.npy"], 1, "nowhere is not a folder; make it first"),
    (["photo.png", "--pca", "photo.png"], 1, "photo.png is named twice"),
    (["photo.png", "--pca", "photo.png", "--overwrite"], 1, "photo.png is named twice"),
    (["photo.png", "--match", "broken.jpg", "--pca", "folder/../broken.jpg"], 1, "named twice"),
    (["photo.png", "--match", "photo.png", "--pca", "a.png", "--match-picture", "a.png"], 1,
     "a.png is named twice"),
    (["photo.png", "--out", "taken.npy"], 1, "taken.npy is already there"),
    (["photo.png", "--pca", "folder"], 1, "folder is to be a picture"),
    (["photo.png", "--out", "folder.npy"], 1, "folder.npy is a folder; name a file"),
])  # fmt: skip
def test_mistakes_are_answered_in_a_sentence_and_leave_nothing(
    run, photo, tmp_path, arguments, code, sentence
):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder.npy").mkdir()
    (tmp_path / "notes.jpg").write_text("words")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 nothing")
    (tmp_path / "cut.png").write_bytes(photo.read_bytes()[:5000])
    (tmp_path / "taken.npy").write_bytes(b"mine")
    if "clip.mp4" in arguments:
        write_video(tmp_path / "clip.mp4", [colour((200, 30, 30), (64, 64))] * 60)
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
    got, out, err = run(*arguments)
    assert got == code, err
    assert sentence in err
    assert out == ""
    assert "Traceback" not in err
    if code == 1:
        assert len(err.strip().splitlines()) == 1
    assert {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")} == before


def test_what_is_there_is_replaced_when_that_is_said(run, photo, tmp_path):
    (tmp_path / "photo.npy").write_bytes(b"mine")
    code, _, err = run(photo, *SIZE)
    assert code == 1
    assert "already there; choose another name, or overwrite it" in err
    assert (tmp_path / "photo.npy").read_bytes() == b"mine"
    assert run(photo, *SIZE, "--overwrite")[0] == 0
    assert np.load(tmp_path / "photo.npy").shape == (1, 49, 192)


def test_a_picture_too_large_for_its_format_is_told(run, tmp_path):
    Image.new("RGB", (17000, 2)).save(tmp_path / "long.png")
    code, out, err = run("long.png", *SIZE, "--pca", "colours.webp")
    assert (code, out) == (1, "")
    assert err == "colours.webp cannot hold 2 x 17000 pixels; a .png can.\n"
    assert run("long.png", *SIZE, "--pca", "colours.png")[0] == 0


def test_a_folder_that_may_not_be_written_to_is_refused_first(run, photo, monkeypatch):
    monkeypatch.setattr(os, "access", lambda _, mode: mode != os.W_OK)
    code, out, err = run(photo, "--model", "PE-Spatial-G14-448")
    assert (code, out) == (1, "")
    assert ". may not be written to; choose another folder" in err


def test_a_disk_that_is_full_at_the_end_is_told_with_the_name_of_the_file(
    run, photo, tmp_path, monkeypatch
):
    def full(operation, _):
        if operation == "sync":
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable, "on_operation", full)
    monkeypatch.setattr(os, "fsync", lambda _: full("sync", _))
    code, out, err = run(photo, *SIZE)
    assert (code, out) == (1, "")
    assert err == "photo.npy cannot be written: No space left on device.\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photo.png"]
