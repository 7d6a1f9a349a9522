"""Weights against what is known of their model: made-up ones pass, each damage is told apart."""

import functools
import json
import math
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import data
import numpy as np
import pytest
import torch
from media_folder import picture, write_video
from other_layouts import in_birder, in_open_clip, vision_of
from PIL import Image
from safetensors.torch import load_file, save_file
from synthetic import T16, tower_state
from test_config import RELEASED as CARDS

from perception_search import PerceptionEncoder
from perception_search.encoder import peer_library
from perception_search.encoder.config import MODELS
from perception_search.encoder.towers import VisionTower
from perception_search.encoder.weights import load_tower, tower_sha256
from perception_search.errors import MediaError, ModelNotFound, WeightsNotFound
from perception_search.frames import FrameSpec
from perception_search.verify_model import peer, precision, tensors, verify_model
from perception_search.verify_model.outputs import Outputs, stability_checks
from perception_search.verify_model.probabilities import (
    demo_indices,
    example_check,
    read_footage,
)
from perception_search.verify_model.released import CAT, DOG, RELEASED
from perception_search.verify_model.samples import TEXTS, Pictures, read_pictures
from perception_search.verify_model.subject import Network, Subject

CPU_FLOAT32 = {"device": torch.device("cpu"), "dtype": torch.float32}
SPATIAL = MODELS["PE-Spatial-T16-512"]


@pytest.fixture(scope="module", autouse=True)
def surroundings(tmp_path_factory):
    """No weights but those that are named, no other library, a cache of our own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PERCEPTION_SEARCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("PERCEPTION_SEARCH_WEIGHTS", raising=False)
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setattr(peer_library, "import_module", not_installed)
        patch.setattr(warnings, "showwarning", warnings.showwarning)
        yield


def not_installed(name):
    raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@pytest.fixture(scope="module")
def core(t16_files):
    return t16_files["safetensors"]


@pytest.fixture(scope="module")
def spatial_state():
    with torch.device("meta"):
        tower = VisionTower(SPATIAL.vision)
    return tower_state(tower)


@pytest.fixture(scope="module")
def spatial(spatial_state, tmp_path_factory):
    return saved(spatial_state, tmp_path_factory.mktemp("spatial") / f"{SPATIAL.name}.safetensors")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A small picture, a JPEG that is large enough to be decoded small, and what is none."""
    folder = tmp_path_factory.mktemp("photos")
    Image.fromarray(picture(1)).save(folder / "1.png")
    Image.fromarray(picture(2, (96, 72))).resize((1600, 1536), Image.Resampling.BICUBIC).save(
        folder / "2.jpg"
    )
    (folder / "3.jpg").write_bytes(b"\xff\xd8\xff\xe0 nothing")
    (folder / "notes.txt").write_text("words")
    return folder


@pytest.fixture(scope="module")
def core_checks(core, photos):
    return named(verify_model(T16.name, weights=core, images=photos, device="cpu"))


@pytest.fixture(scope="module")
def subject(core):
    return Subject.open(T16, core, None, "cpu")


@pytest.fixture(scope="module")
def network(subject):
    return Network(subject, "float32")


def saved(state, path):
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, path)
    return path


def named(checks):
    checks = list(checks)
    by_name = {check.name: check for check in checks}
    assert len(by_name) == len(checks)
    return by_name


def failed(checks):
    return {check.name for check in checks if check.verdict == "fail"}


# A file as it should be


def test_sound_weights_of_a_core_model_pass_every_check_in_order(core_checks):
    assert [(check.name, check.verdict) for check in core_checks.values()] == [
        ("file", "info"),
        ("container", "pass"),
        ("layout", "pass"),
        ("vision tensors", "pass"),
        ("text tensors", "pass"),
        ("vision dtype", "info"),
        ("text dtype", "info"),
        ("logit scale", "pass"),
        ("vision values", "pass"),
        ("text values", "pass"),
        ("vision SHA-256", "info"),
        ("text SHA-256", "info"),
        ("pictures", "info"),
        ("embedding shape", "pass"),
        ("text embedding shape", "pass"),
        ("pooled shape", "pass"),
        ("tokens shape", "pass"),
        ("map shape", "pass"),
        ("raw lengths", "pass"),
        ("same picture twice", "pass"),
        ("pictures alone, together", "pass"),
        ("their raw lengths", "pass"),
        ("texts alone, padded", "pass"),
        ("cat", "skipped"),
        ("dog", "skipped"),
        ("fast JPEG", "pass"),
        ("bfloat16 pictures", "pass"),
        ("bfloat16 texts", "pass"),
        ("int8 pictures", "info"),
        ("int8 texts", "info"),
        ("open_clip", "skipped"),
    ]


def test_what_came_is_told(core, core_checks):
    got = {name: check.got for name, check in core_checks.items()}
    assert got["file"] == f"{core}, {core.stat().st_size:,} bytes"
    assert (got["container"], got["layout"]) == ("safetensors", "Meta's")
    assert got["vision tensors"] == "163, 6,140,544 parameters"
    assert got["text tensors"] == "150, 63,405,057 parameters"  # 313 - 163, 69,545,601 - 6,140,544
    assert got["vision dtype"] == got["text dtype"] == "float32"
    assert got["logit scale"] == "100"
    assert got["vision SHA-256"] == tower_sha256(core, T16, "vision")
    assert got["text SHA-256"] == tower_sha256(core, T16, "text")
    assert got["pictures"].startswith("2 of ")
    assert got["tokens shape"] == "(1, 576, 192)"
    assert got["map shape"] == "(1, 192, 24, 24)"
    assert "--cat cat.png" in got["cat"]
    assert "--dog dog.mp4" in got["dog"]
    assert got["fast JPEG"].endswith("of 1")
    assert "pip install open_clip_torch" in got["open_clip"]


def test_a_low_precision_is_held_against_float32_by_its_cosine(core, core_checks):
    by_dtype = [
        PerceptionEncoder(T16.name, weights=core, device="cpu", dtype=dtype).encode_text(TEXTS)
        for dtype in ("float32", "int8")
    ]
    lowest = min(
        float(np.dot(exact, rough) / np.linalg.norm(exact) / np.linalg.norm(rough))
        for exact, rough in zip(*by_dtype, strict=True)
    )
    assert lowest < 0.99999
    got = core_checks["int8 texts"]
    assert got.got.endswith(f"of {len(TEXTS)}")
    assert float(got.got.split(",")[0]) == pytest.approx(lowest, abs=1e-6)
    assert (got.expected, got.verdict) == ("unproven", "info")


def test_a_model_without_texts_is_checked_by_its_features(spatial, photos):
    checks = named(verify_model(SPATIAL.name, weights=spatial, images=photos, device="cpu"))
    assert {name: check.verdict for name, check in checks.items()} == {
        "file": "info",
        "container": "pass",
        "layout": "pass",
        "vision tensors": "pass",
        "vision dtype": "info",
        "vision values": "pass",
        "vision SHA-256": "info",
        "pictures": "info",
        "tokens shape": "pass",
        "map shape": "pass",
        "raw lengths": "pass",
        "same picture twice": "pass",
        "pictures alone, together": "pass",
        "their raw lengths": "pass",
        "bfloat16 pictures": "pass",
        "timm": "skipped",
    }
    assert checks["tokens shape"].got == "(1, 1024, 192)"
    assert "pip install timm" in checks["timm"].got


def test_what_is_expected_is_that_of_the_model_cards():
    assert list(RELEASED) == list(CARDS)
    for name, ((size, patch, width, *_), vision, both, dim, _) in CARDS.items():
        released = RELEASED[name]
        assert released.vision == (vision[1], vision[0])
        assert released.both == (both and (both[1], both[0]))
        assert released.tokens == ((size // patch) ** 2, width)
        assert released.dim == dim


# Files of other layouts


def test_weights_without_a_projection_are_checked_as_far_as_they_go(core, tmp_path):
    birder = saved(in_birder(vision_of(load_file(core))), tmp_path / "birder.safetensors")
    checks = named(verify_model(T16.name, weights=birder, quick=True))
    assert failed(checks.values()) == set()
    assert checks["layout"].got == "birder's"
    assert checks["vision tensors"].expected == f"162, {6_140_544 - 192 * 512:,} parameters"
    assert checks["vision tensors"].got.endswith(" parameters, without the projection")
    assert checks["text tensors"].verdict == "skipped"
    assert "--projection FILE" in checks["text tensors"].got
    joined = named(verify_model(T16.name, weights=birder, projection=core, quick=True))
    assert failed(joined.values()) == set()
    for tower in ("vision", "text"):
        assert joined[f"{tower} SHA-256"].got == tower_sha256(core, T16, tower)
    assert joined["projection file"].got.startswith(str(core))


def test_a_torch_file_is_called_one(t16_files):
    checks = named(verify_model(T16.name, weights=t16_files["pt"], quick=True))
    assert checks["container"].got == "torch"
    assert checks["outputs"].got == "left out by --quick"


# Damage


def changed(state, **changes):
    return {key: t for key, t in (state | changes).items() if t is not None}


@pytest.mark.parametrize(
    ("change", "check", "what"),
    [
        (lambda t: t.index_fill(0, torch.tensor([3]), math.nan), "vision values", "holds NaN"),
        (lambda t: t.index_fill(0, torch.tensor([3]), -math.inf), "vision values", "or infinity"),
        (torch.zeros_like, "vision values", "ln_pre.weight is all zero"),
        (lambda t: None, "vision tensors", "ln_pre.weight is missing"),
        (lambda t: t[:-1], "vision tensors", r"ln_pre.weight has shape (191,), not (192,)"),
        (lambda t: t.to(torch.int8), "vision tensors", "not of a floating-point type"),
    ],
)
def test_one_damaged_tensor_turns_one_check_red(spatial_state, tmp_path, change, check, what):
    state = changed(spatial_state, **{"ln_pre.weight": change(spatial_state["ln_pre.weight"])})
    path = saved(state, tmp_path / "weights.safetensors")
    checks = named(verify_model(SPATIAL.name, weights=path, device="cpu"))
    assert failed(checks.values()) == {check}
    assert what in checks[check].got
    assert list(checks)[-1] == "outputs"
    assert checks["outputs"].verdict == "skipped"


def test_a_bias_of_zeros_is_no_damage(spatial_state, tmp_path):
    state = changed(spatial_state, **{"ln_pre.bias": torch.zeros(192)})
    path = saved(state, tmp_path / "weights.safetensors")
    assert failed(verify_model(SPATIAL.name, weights=path, quick=True)) == set()


def test_the_weights_of_another_model_are_called_by_their_name(core, spatial):
    checks = named(verify_model("PE-Spatial-S16-512", weights=spatial, device="cpu"))
    assert failed(checks.values()) == {"vision tensors"}
    assert "these are the tensors of PE-Spatial-T16-512" in checks["vision tensors"].got
    checks = named(verify_model("PE-Core-S16-384", weights=core, quick=True))
    assert failed(checks.values()) == {"vision tensors"}  # T and S have text towers of one shape


@pytest.mark.parametrize("content", [b"", b"words", b"<!doctype html>"])
def test_a_file_that_holds_no_weights_is_the_only_line(tmp_path, content):
    path = tmp_path / "weights.pt"
    path.write_bytes(content)
    checks = named(verify_model(T16.name, weights=path, quick=True))
    assert list(checks) == ["file"]
    assert failed(checks.values()) == {"file"}
    assert "cannot be read as a weights file" in checks["file"].got


def test_a_logit_scale_of_zero_is_a_check_of_its_own(core, tmp_path):
    state = load_file(core)
    path = saved(changed(state, logit_scale=torch.zeros(())), tmp_path / "weights.safetensors")
    checks = named(verify_model(T16.name, weights=path, device="cpu"))
    assert failed(checks.values()) == {"logit scale"}
    assert checks["logit scale"].got == "1"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("log", "verdict"),
    [
        (math.log(100), "pass"),  # where training clamps it, however the file rounds it
        (math.log(1 / 0.07), "pass"),
        (math.log(102), "fail"),
        (0.0, "fail"),
        (-1.0, "fail"),
        (math.nan, "fail"),
        (math.inf, "fail"),
    ],
)
def test_the_logit_scale_is_above_1_and_at_most_100(subject, monkeypatch, dtype, log, verdict):
    scale = torch.tensor(log, dtype=dtype)
    monkeypatch.setattr(tensors, "tower_tensors", lambda *_, **__: iter([("logit_scale", scale)]))
    assert tensors._logit_scale(subject).verdict == verdict


# What is computed


class Scripted:
    """A network whose picture is its colour, with one fault or none."""

    def __init__(self, fault=None):
        self.subject = SimpleNamespace(model=T16, has_text=True, embeds=True)
        self.encoder = SimpleNamespace(encode_text=self.encode_text)
        self.fault = fault
        self.num_calls = 0

    def encode_pictures(self, pixels):
        self.num_calls += 1
        out = pixels.reshape(len(pixels), 3, -1).mean(axis=2).astype(np.float32) + 1
        if self.fault == "forgets" and self.num_calls == 5:  # after one by one
            out[:, 0] *= 1.01
        if self.fault == "batch" and len(pixels) > 1:
            out[:, 0] *= 1.01
        if self.fault == "length" and len(pixels) > 1:
            out *= 1.01
        if self.fault == "nan":
            out[-1] = np.nan
        return out

    def encode_text(self, texts):
        out = np.array([[len(text), 1.0] for text in texts], np.float32)
        if self.fault == "padding":
            out[:, 1] += len(max(texts, key=len)) - out[:, 0]
        return out / np.linalg.norm(out, axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("fault", "red"),
    [
        (None, set()),
        ("forgets", {"same picture twice"}),
        ("batch", {"pictures alone, together", "their raw lengths"}),
        ("length", {"their raw lengths"}),
        ("padding", {"texts alone, padded"}),
        (
            "nan",
            {"raw lengths", "same picture twice", "pictures alone, together", "their raw lengths"},
        ),
    ],
)
def test_an_output_that_depends_on_what_it_should_not_is_told(fault, red):
    network = Scripted(fault)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3, 8, 8), np.uint8)
    alone = np.concatenate([network.encode_pictures(each[None]) for each in pixels])
    exact = Outputs(alone, network.encode_text(TEXTS))
    assert failed(stability_checks(network, exact, pixels)) == red


@pytest.mark.parametrize(
    ("cosine", "verdict"), [(0.9996, "pass"), (0.9994, "fail"), (math.nan, "fail")]
)
def test_a_low_precision_passes_by_its_worst_picture(subject, monkeypatch, cosine, verdict):
    turned = np.array([[cosine, math.sqrt(1 - cosine**2)]], np.float32)  # away from [1, 0]

    class Rough(Scripted):
        def encode_pictures(self, pixels):
            return turned if pixels.any() else np.array([[3.0, 0.0]], np.float32)

        def encode_text(self, texts):
            return np.array([[1.0, 0.0]], np.float32)

    monkeypatch.setattr(precision, "Network", lambda subject, dtype: Rough())
    pixels = np.stack([np.full((3, 2, 2), value, np.uint8) for value in (0, 1)])
    exact = Outputs(np.array([[1.0, 0.0]] * 2, np.float32), np.array([[1.0, 0.0]], np.float32))
    pictures = Pictures(pixels, pixels, "")
    checks = named(precision.dtype_checks(subject, exact, pictures, lambda *_: None))
    assert checks["bfloat16 pictures"].verdict == verdict
    assert checks["bfloat16 texts"].verdict == "pass"
    assert {checks[f"int8 {what}"].verdict for what in ("pictures", "texts")} == {"info"}
    assert checks["int8 pictures"].got.startswith(f"{cosine:.4f}"[:5])


def test_the_fast_jpeg_path_is_checked_only_where_it_makes_a_difference(network):
    pixels = np.zeros((1, 3, 8, 8), np.uint8)
    exact = Outputs(np.ones((1, 2), np.float32), None)
    check = precision.fast_jpeg_check(network, exact, Pictures(pixels, pixels, ""), print)
    assert check.verdict == "skipped"
    assert "1536 x 1536" in check.got


def test_made_up_pictures_are_large_enough_for_the_fast_jpeg_path():
    pictures = read_pictures(None, FrameSpec(112, 112, fast_jpeg=False))
    assert pictures.exact.shape == pictures.fast.shape == (4, 3, 112, 112)
    differ = (pictures.exact != pictures.fast).any(axis=(1, 2, 3))
    assert differ.all()
    assert pictures.exact.std(axis=(1, 2, 3)).min() > 10


def test_pictures_of_a_folder_come_by_name_and_broken_ones_are_passed_over(photos, tmp_path):
    spec = FrameSpec(16, 16, fast_jpeg=False)
    pictures = read_pictures(photos, spec)
    expected = [
        np.asarray(Image.open(photos / name).resize((16, 16), Image.Resampling.BILINEAR))
        for name in ("1.png", "2.jpg")
    ]
    np.testing.assert_array_equal(pictures.exact, np.stack(expected).transpose(0, 3, 1, 2))
    for number in range(12):
        Image.fromarray(picture(number)).save(tmp_path / f"{number:02d}.png")
    assert len(read_pictures(tmp_path, spec).exact) == 8
    (tmp_path / "empty").mkdir()
    with pytest.raises(MediaError, match="holds no pictures; name a folder of some"):
        read_pictures(tmp_path / "empty", spec)
    (tmp_path / "empty" / "a.jpg").write_bytes(b"\xff\xd8\xff\xe0 nothing")
    with pytest.raises(MediaError, match=r"none of the pictures can be read; the last, .*a\.jpg"):
        read_pictures(tmp_path / "empty", spec)


# A cat and a dog


def by_hand(core, frames):
    """Probabilities of the three texts for frames as Pillow has them, step by step."""
    tower = load_tower(core, T16, "vision", **CPU_FLOAT32)
    raw = []
    for frame in frames:
        squashed = np.asarray(frame.resize((384, 384), Image.Resampling.BILINEAR).convert("RGB"))
        pixels = torch.from_numpy(squashed / 255 * 2 - 1).float().permute(2, 0, 1)[None]
        raw.append(tower(pixels)[0].double().numpy())
    mean = sum(raw) / len(raw)
    mean = mean / math.sqrt(sum(x * x for x in mean))
    encoder = PerceptionEncoder(T16.name, weights=core, device="cpu", dtype="float32")
    texts = encoder.encode_text(["a diagram", "a dog", "a cat"])
    powers = [math.exp(100 * float(text @ mean)) for text in texts.astype(np.float64)]
    return [power / sum(powers) for power in powers]


def shown(values):
    return " ".join(f"{value:.2f}" for value in values)


SPEC = FrameSpec(384, 384, fast_jpeg=False)


def test_a_picture_is_scored_as_the_notebook_scores_it(network, core, tmp_path):
    path = tmp_path / "cat.png"
    Image.fromarray(picture(5, (80, 60))).save(path)
    footage = read_footage(path, SPEC)
    expected = by_hand(core, [Image.open(path)])
    check = example_check(network, CAT, footage)
    assert check.verdict == "info"  # another file, and of another model
    assert check.expected == "0.00 0.00 1.00"
    assert check.got == (
        f"{shown(expected)}; published for cat.png and PE-Core-G14-448, PE-Core-L14-336"
    )
    published = replace(CAT, sha256_start=footage.sha256[:16], models=(T16.name,))
    assert example_check(network, published, footage).verdict == "fail"
    right = replace(published, probabilities=tuple(expected))
    assert example_check(network, right, footage).verdict == "pass"
    assert example_check(network, replace(right, models=()), footage).verdict == "info"
    assert example_check(network, replace(right, sha256_start="0"), footage).verdict == "info"


def test_a_video_is_scored_by_eight_of_its_frames(network, core, tmp_path):
    import av

    path = write_video(tmp_path / "dog.mp4", [picture(i, (64, 48)) for i in range(21)])
    with av.open(str(path)) as container:
        frames = [frame.to_image() for frame in container.decode(video=0)]
    assert len(frames) == 21
    chosen = [frames[i] for i in (0, 2, 5, 7, 10, 13, 15, 18)]
    footage = read_footage(path, SPEC)
    assert len(footage.frames) == 8
    check = example_check(network, DOG, footage)
    assert check.got.startswith(f"{shown(by_hand(core, chosen))}; published for dog.mp4")


def test_the_frames_are_those_of_the_notebook():
    assert demo_indices(150) == [0, 18, 37, 56, 75, 93, 112, 131]
    assert demo_indices(3) == [0, 0, 0, 1, 1, 1, 2, 2]


def test_footage_that_cannot_be_shown_is_named(tmp_path):
    long = write_video(tmp_path / "long.mp4", [picture(0)] * 501, fps=25)
    with pytest.raises(MediaError, match=r"long\.mp4 has more than 500 frames"):
        read_footage(long, SPEC)
    (tmp_path / "cat.png").write_text("words")
    with pytest.raises(MediaError, match=r"cat\.png: "):
        verify_model(T16.name, weights=tmp_path / "cat.png", cat=tmp_path / "cat.png")


def test_the_files_of_the_reference_are_known():
    for example, folder, name in ((CAT, "pe", "cat.png"), (DOG, "clips", "060_dog.mp4")):
        footage = read_footage(data.folder(folder) / name, FrameSpec(8, 8))
        assert footage.sha256.startswith(example.sha256_start)
        assert len(footage.frames) == (1 if example is CAT else 8)


def test_features_have_no_probabilities(spatial):
    network = Network(Subject.open(SPATIAL, spatial, None, "cpu"), "float32")
    footage = SimpleNamespace(frames=None, sha256="")
    assert example_check(network, CAT, footage).verdict == "skipped"


# Other libraries


class OtherModel:
    """open_clip's model as far as it is asked: its layout, computed by our towers."""

    def __init__(self, state, folder, fault=None):
        self.state = {key: torch.full_like(tensor, 0.5) for key, tensor in state.items()}
        self.path = folder / "open_clip_model.safetensors"
        self.fault = fault

    def float(self):
        return self

    def eval(self):
        return self

    def state_dict(self):
        return self.state

    def encode_image(self, pixels):
        saved(self.state, self.path)
        out = load_tower(self.path, T16, "vision", **CPU_FLOAT32)(pixels)
        return out.flip(1) if self.fault == "images" else out

    def encode_text(self, rows):
        out = load_tower(self.path, T16, "text", **CPU_FLOAT32)(rows)
        return out.flip(1) if self.fault == "texts" else out


@pytest.fixture
def ours(network):
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, 384, 384), np.uint8)
    return Outputs(network.encode_pictures(pixels), network.encoder.encode_text(TEXTS)), pixels


@pytest.mark.parametrize("fault", [None, "images", "texts"])
def test_open_clip_is_given_the_same_weights_and_must_compute_the_same(
    subject, core, ours, tmp_path, monkeypatch, fault
):
    model = OtherModel(in_open_clip(load_file(core)), tmp_path, fault)
    asked = []
    library = SimpleNamespace(create_model=lambda name, **_: asked.append(name) or model)
    monkeypatch.setattr(peer_library, "import_module", {"open_clip": library}.__getitem__)
    checks = named(peer.peer_checks(subject, *ours, lambda *_: None))
    assert asked == ["PE-Core-T-16-384"]
    verdicts = {name: check.verdict for name, check in checks.items()}
    assert verdicts == {
        "open_clip pictures": "fail" if fault == "images" else "pass",
        "open_clip texts": "fail" if fault == "texts" else "pass",
    }
    for tower in ("vision", "text"):  # every tensor went where it is read from
        assert tower_sha256(model.path, T16, tower) == tower_sha256(core, T16, tower)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (not_installed, "not installed; to compare with it: pip install open_clip_torch"),
        (RuntimeError("operator torchvision::nms does not exist"), "torchvision::nms"),
        (OSError("libsomething.so:\ncannot open"), "here: libsomething.so: cannot open"),
        (AttributeError(), "cannot be used here: AttributeError"),
    ],
)
def test_a_library_that_cannot_be_imported_costs_no_other_check(
    subject, ours, monkeypatch, error, reason
):
    def fails(name):
        if isinstance(error, Exception):
            raise error
        error(name)

    monkeypatch.setattr(peer_library, "import_module", fails)
    [check] = peer.peer_checks(subject, *ours, lambda *_: None)
    assert (check.name, check.verdict) == ("open_clip", "skipped")
    assert reason in check.got


def test_a_library_whose_model_has_other_tensors_is_passed_over(
    subject, core, ours, tmp_path, monkeypatch
):
    state = in_open_clip(load_file(core))
    for change, what in (
        ({"visual.trunk.norm.weight": None}, "its model has no ln_post.weight"),
        ({"visual.trunk.more": torch.zeros(1)}, "its model has more, which the release has not"),
    ):
        model = OtherModel(changed(state, **change), tmp_path)
        library = SimpleNamespace(create_model=lambda name, model=model, **_: model)
        monkeypatch.setattr(peer_library, "import_module", lambda name, library=library: library)
        [check] = peer.peer_checks(subject, *ours, lambda *_: None)
        assert check.verdict == "skipped"
        assert what in check.got


# The command


@pytest.fixture
def run(run):
    """Run the command in this process: (exit code, stdout, stderr)."""
    return functools.partial(run, "verify-model")


def test_the_command_prints_a_line_a_check(run, spatial):
    code, out, err = run(SPATIAL.name, "--weights", spatial, "--quick")
    assert code == 0
    head, *lines = out.splitlines()
    assert head.split() == ["verdict", "check", "expected", "got"]
    assert lines[2].split() == ["pass", "layout", "one", "of", "five", "Meta's"]
    assert lines[-1].split()[:2] == ["skipped", "outputs"]
    assert err == "4 passed, 0 failed, 1 skipped.\n"


def test_the_command_ends_with_1_when_a_check_fails_and_prints_json(run, spatial):
    code, out, err = run("PE-Spatial-S16-512", "--weights", spatial, "--quick", "--json")
    assert code == 1
    lines = [json.loads(line) for line in out.splitlines()]
    assert all(set(line) == {"name", "expected", "got", "verdict"} for line in lines)
    [red] = [line for line in lines if line["verdict"] == "fail"]
    assert (red["name"], red["expected"]) == ("vision tensors", "149, 21,983,232 parameters")
    assert err == "2 passed, 1 failed, 1 skipped.\n"


def test_an_error_of_many_lines_stays_on_its_own(run, tmp_path):
    path = tmp_path / "weights.pt"
    path.write_text("words")
    code, out, _ = run(T16.name, "--weights", path, "--quick")
    assert code == 1
    assert len(out.splitlines()) == 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["starter"], "starter is no released model of Perception Encoder"),
        (["CLIP-B32"], "no model 'CLIP-B32'"),
        ([T16.name], "PERCEPTION_SEARCH_WEIGHTS is not set"),
        ([T16.name, "--weights", "/nowhere"], "/nowhere holds no weights"),
        ([T16.name, "--weights", "{file}", "--projection", "/nowhere"], "holds no weights"),
        ([T16.name, "--weights", "{file}", "--cat", "nope.png"], "nope.png does not exist"),
        ([T16.name, "--weights", "{file}", "--images", "nope"], "nope does not exist"),
        ([T16.name, "--weights", "{file}", "--cat", "{file}"], ": not a picture"),
        ([T16.name, "--weights", "{file}", "--device", "tpu"], "device='tpu'"),
    ],
)
def test_mistakes_are_answered_in_a_sentence(run, spatial, arguments, sentence):
    code, out, err = run(*(word.replace("{file}", str(spatial)) for word in arguments))
    assert (code, out) == (1, "")
    assert sentence in err
    assert len(err.strip().splitlines()) == 1


def test_the_same_mistakes_are_errors_to_callers(core):
    with pytest.raises(ModelNotFound):
        verify_model("starter", weights=core)
    with pytest.raises(WeightsNotFound):
        verify_model(T16.name)
    with pytest.raises(FileNotFoundError):
        verify_model(T16.name, weights=core, dog=Path("nope.mp4"))
