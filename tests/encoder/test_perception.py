import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from golden import recipe
from PIL import Image
from synthetic import T16, tower_state

from perception_search.encoder import Encoder, PerceptionEncoder, load_encoder, perception
from perception_search.encoder.config import MODELS
from perception_search.encoder.cpu_linear import can_pack
from perception_search.encoder.tokenizer import TruncatedTextWarning
from perception_search.encoder.towers import VisionTower
from perception_search.errors import MediaError, ModelNotFound, WeightsMismatch, WeightsNotFound
from perception_search.frames import FrameSpec, prepare_image

NAME = T16.name


@pytest.fixture(scope="module")
def encoder(t16_files):
    """In float32 on the CPU."""
    return PerceptionEncoder(
        NAME, weights=t16_files["safetensors"], device="cpu", dtype="float32", batch_size=2
    )


@pytest.fixture(scope="module")
def pictures():
    """Of different sizes and modes."""
    return [recipe.picture("RGB", 100, 60), recipe.picture("P", 40, 50)]


@pytest.fixture(scope="module")
def frames():
    """Three, smaller than the model's own size, to be quick."""
    sizes = ((100, 60), (64, 90), (40, 40))
    pictures = [recipe.picture("RGB", *size) for size in sizes]
    return np.stack([prepare_image(picture, FrameSpec(96, 96)) for picture in pictures])


def cosines(a, b):
    return (perception.unit(a) * perception.unit(b)).sum(axis=-1)


# Against the reference


@pytest.mark.parametrize("kind", ["safetensors", "pt"])
def test_a_released_model_gives_the_embeddings_of_the_reference(t16_files, golden, kind):
    encoder = PerceptionEncoder(NAME, weights=t16_files[kind], device="cpu", dtype="float32")
    pixels = torch.from_numpy(recipe.image(f"{NAME}/img", 1, 384, 384))
    rows = torch.zeros(3, 32, dtype=torch.int64)
    texts = [[320, 2368], [320, 1125, 539, 320], range(500, 530)]
    for row, ids in zip(rows, texts, strict=True):
        row[: len(ids) + 2] = torch.tensor([49406, *ids, 49407])
    with torch.inference_mode():
        actual = {
            "encode_image": encoder.vision(pixels),
            "features_norm_first3tok": encoder.vision.features(pixels)[0, :3],
            "encode_text": encoder.text(rows),
        }
        if kind == "safetensors":
            large = torch.from_numpy(recipe.image(f"{NAME}/img512", 1, 512, 512))
            actual["encode_image_512"] = encoder.vision(large)
    for array, values in actual.items():
        np.testing.assert_allclose(values, golden[f"{NAME}/{array}"], rtol=0, atol=1e-5)


def test_texts_give_the_unit_embeddings_of_the_reference_in_order(encoder, golden):
    expected = perception.unit(golden[f"{NAME}/encode_text"][:2])
    longer_first = encoder.encode_text(["A photo of a", "a cat"])
    np.testing.assert_allclose(longer_first, expected[::-1], rtol=0, atol=1e-5)


# Frames, images, videos


def test_frames_are_brought_to_minus_one_to_one_and_embedded_raw(encoder, frames):
    embeddings = encoder.encode_frames(frames)
    normalised = (torch.from_numpy(frames).float() / 255 - 0.5) / 0.5
    with torch.inference_mode():
        expected = encoder.vision(normalised).numpy()
    np.testing.assert_allclose(embeddings, expected, rtol=0, atol=2e-5)
    assert embeddings.dtype == np.float32
    assert (np.linalg.norm(embeddings, axis=1) > 1.5).all()


def test_read_only_and_strided_frames_are_taken_without_a_warning(encoder, frames):
    fixed = np.flip(frames[:1], axis=-1)
    fixed.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        embeddings = encoder.encode_frames(fixed)
    np.testing.assert_array_equal(embeddings, encoder.encode_frames(fixed.copy()))


def test_no_frames_no_images_and_no_texts_give_no_embeddings(encoder):
    assert encoder.encode_frames(np.zeros((0, 3, 384, 384), np.uint8)).shape == (0, 512)
    assert encoder.encode_images([]).shape == (0, 512)
    assert encoder.encode_text([]).shape == (0, 512)


@pytest.mark.parametrize(
    "pixels",
    [np.zeros((3, 384, 384), np.uint8), np.zeros((1, 384, 384, 3), np.uint8),
     np.zeros((1, 3, 384, 384), np.float32)],
)  # fmt: skip
def test_other_arrays_than_frames_are_refused(encoder, pixels):
    with pytest.raises(ValueError, match=rf"pixels are {pixels.dtype} of shape .*; must be uint8"):
        encoder.encode_frames(pixels)


def test_images_are_the_unit_embeddings_of_their_frames(encoder, pictures):
    frames = np.stack([prepare_image(picture, encoder.frame_spec) for picture in pictures])
    expected = perception.unit(encoder.encode_frames(frames))
    np.testing.assert_allclose(encoder.encode_images(pictures), expected, rtol=0, atol=1e-6)


def test_an_image_may_be_a_path_or_an_array_too(encoder, pictures, tmp_path):
    path = tmp_path / "picture.png"
    pictures[0].save(path)
    picture, *same = encoder.encode_images([pictures[0], path, np.asarray(pictures[0])])
    np.testing.assert_allclose(same, [picture, picture], rtol=0, atol=1e-6)


def test_images_are_turned_upright(encoder, tmp_path):
    picture = recipe.picture("RGB", 100, 60)
    exif = Image.Exif()
    exif[0x0112] = 3  # stored upside down
    path = tmp_path / "turned.png"
    picture.rotate(180).save(path, exif=exif)
    turned, upright = encoder.encode_images([path, picture])
    np.testing.assert_allclose(turned, upright, rtol=0, atol=1e-6)


def test_what_is_no_image_is_refused(encoder, tmp_path):
    path = tmp_path / "text.jpg"
    path.write_text("not a picture")
    with pytest.raises(MediaError, match=f"{path} cannot be read") as caught:
        encoder.encode_images([path])
    assert caught.value.outcome == "unreadable"
    with pytest.raises(FileNotFoundError):
        encoder.encode_images([tmp_path / "missing.jpg"])
    with pytest.raises(ValueError, match=r"shape \(3, 8, 8\); must be uint8 \(H, W, 3\)"):
        encoder.encode_images([np.zeros((3, 8, 8), np.uint8)])
    with pytest.raises(TypeError, match=r"images is one path, 'cat\.png'; pass a list"):
        encoder.encode_images("cat.png")


def test_a_video_is_the_mean_of_its_unit_frames_or_the_unit_mean_of_its_raw_ones(encoder, frames):
    embeddings = encoder.encode_frames(frames)
    lengths = [float(np.sqrt(sum(float(x) ** 2 for x in row))) for row in embeddings]
    units = np.stack([row / length for row, length in zip(embeddings, lengths, strict=True)])
    expected = units.sum(axis=0) / 3
    np.testing.assert_allclose(encoder.encode_video(frames), expected, rtol=0, atol=1e-6)
    raw = encoder.encode_video(frames, pooling="raw-frames")
    total = embeddings.sum(axis=0, dtype=np.float64)
    np.testing.assert_allclose(raw, total / np.sqrt((total**2).sum()), rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="pooling='max'; one of unit-frames, raw-frames"):
        encoder.encode_video(frames, pooling="max")
    with pytest.raises(ValueError, match="a video of 0 frames"):
        encoder.encode_video(frames[:0])


def test_an_encoder_has_a_pooling_of_its_own(encoder, frames, t16_files):
    raw = PerceptionEncoder(
        NAME, weights=t16_files["safetensors"], dtype="float32", pooling="raw-frames"
    )
    assert raw.identity.pooling == "mean of the frames' raw embeddings"
    expected = encoder.encode_video(frames, pooling="raw-frames")
    np.testing.assert_allclose(raw.encode_video(frames), expected, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="pooling='max'; one of unit-frames, raw-frames"):
        PerceptionEncoder(NAME, pooling="max")


# Texts and both


def test_many_texts_are_embedded_as_one_by_one_whatever_their_lengths(encoder):
    texts = ["a cat " * (i * 7 % 11) for i in range(70)]
    together = encoder.encode_text(texts)
    for i in (0, 1, 35, 69):
        np.testing.assert_allclose(together[i], encoder.encode_text([texts[i]])[0], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)


def test_a_text_that_is_too_long_warns_the_caller(encoder):
    with pytest.warns(TruncatedTextWarning, match="up to 10 tokens at the end") as seen:
        encoder.encode_text(["cat " * 40])
    assert seen[0].filename == __file__


def test_a_call_gives_unit_features_of_both_and_the_scale(encoder, pictures):
    images, texts, logit_scale = encoder(pictures[:1], ["a cat", "a dog", "a diagram"])
    np.testing.assert_array_equal(images, encoder.encode_images(pictures[:1]))
    np.testing.assert_array_equal(texts, encoder.encode_text(["a cat", "a dog", "a diagram"]))
    assert logit_scale == pytest.approx(100.0, rel=1e-5)


def test_classifying_is_the_softmax_of_the_scaled_cosines(encoder, pictures):
    labels = ["a diagram", "a dog", "a cat"]
    images, texts, logit_scale = encoder(pictures[:1], labels)
    scores = [np.exp(logit_scale * float(images[0] @ text)) for text in texts]
    probabilities = encoder.classify(pictures[0], labels)
    assert list(probabilities) == labels
    for label, score in zip(labels, scores, strict=True):
        assert probabilities[label] == pytest.approx(score / sum(scores), rel=1e-3)


def test_labels_must_be_given_and_differ(encoder, pictures):
    for labels in ([], ["a cat", "a cat"]):
        with pytest.raises(ValueError, match="at least one is needed, and none twice"):
            encoder.classify(pictures[0], labels)


# Loading


@pytest.fixture
def loaded(monkeypatch):
    """The towers that were loaded, in order."""
    names = []
    load_tower = perception.load_tower
    monkeypatch.setattr(
        perception,
        "load_tower",
        lambda path, config, tower, **options: (
            names.append(tower) or load_tower(path, config, tower, **options)
        ),
    )
    return names


def test_a_tower_is_loaded_when_it_is_needed_and_once(t16_files, frames, loaded):
    encoder = PerceptionEncoder(NAME, weights=t16_files["safetensors"], device="cpu")
    assert encoder.identity.dim == 512
    assert encoder.frame_spec.height == 384
    assert loaded == []
    encoder.encode_frames(frames[:1])
    encoder.encode_frames(frames[:1])
    assert loaded == ["vision"]
    encoder.encode_text(["a cat"])
    encoder.encode_text(["a dog"])
    assert loaded == ["vision", "text"]


def test_texts_do_not_load_the_vision_tower(t16_files, loaded):
    PerceptionEncoder(NAME, weights=t16_files["pt"], device="cpu").encode_text(["a cat"])
    assert loaded == ["text"]


def test_the_identity_is_known_without_torch_once_the_hashes_are(t16_files):
    path = str(t16_files["safetensors"])
    identity = PerceptionEncoder(NAME, weights=path).identity
    code = (
        "import sys; from perception_search.encoder import PerceptionEncoder;"
        f"print(PerceptionEncoder({NAME!r}, weights={path!r}).identity);"
        "assert 'torch' not in sys.modules"
    )
    command = [sys.executable, "-c", code]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed.strip() == str(identity)


def test_the_identity_names_model_weights_and_preprocessing(encoder):
    identity = encoder.identity
    assert (identity.model, identity.dim) == (NAME, 512)
    assert len(identity.vision_sha256) == len(identity.text_sha256) == 64
    assert identity.vision_sha256 != identity.text_sha256
    assert identity.preprocessing == "squash to 384x384, bilinear, then RGB in -1..1"
    assert identity.pooling == "mean of the frames' unit embeddings"


def test_the_identity_does_not_depend_on_container_or_dtype(t16_files, encoder):
    other = PerceptionEncoder(NAME, weights=t16_files["pt"], device="cpu", dtype="bfloat16")
    assert other.identity == encoder.identity


def test_the_text_tower_is_quickened_at_its_second_use_and_says_the_same(t16_files):
    for dtype, least in (("float32", 0.999999), ("bfloat16", 0.9999)):
        own = PerceptionEncoder(NAME, weights=t16_files["safetensors"], device="cpu", dtype=dtype)
        first = own.encode_text(["a cat"])
        plain = [name for name, _ in own.text.named_modules() if name.endswith("in_proj")]
        second, third = own.encode_text(["a cat"]), own.encode_text(["a cat"])
        packed = [name for name, _ in own.text.named_modules() if name.endswith("in_proj")]
        assert (len(plain), len(packed)) == (
            0,
            12 if can_pack(own.text.positional_embedding.dtype) else 0,
        )
        assert cosines(first, second).min() >= least
        assert np.array_equal(second, third)


def test_a_file_without_texts_embeds_images_only(tmp_path, frames, encoder):
    with torch.device("meta"):
        bare = tower_state(VisionTower(T16.vision), "visual.")
    torch.save(bare, tmp_path / "vision.pt")
    images_only = PerceptionEncoder(NAME, weights=tmp_path / "vision.pt", device="cpu")
    assert images_only.identity.vision_sha256 == encoder.identity.vision_sha256
    assert images_only.identity.text_sha256 == ""
    assert images_only.encode_frames(frames[:1]).shape == (1, 512)
    with pytest.raises(WeightsMismatch, match="holds no text tower of PE-Core-T16-384"):
        images_only.encode_text(["a cat"])


def test_weights_that_are_not_there_are_an_error_at_once(tmp_path):
    with pytest.raises(WeightsNotFound, match="holds no weights of PE-Core-T16-384"):
        PerceptionEncoder(NAME, weights=tmp_path)


# Devices and dtypes


def test_bfloat16_keeps_close_to_float32(t16_files, encoder, frames):
    half = PerceptionEncoder(NAME, weights=t16_files["safetensors"], device="cpu", dtype="bfloat16")
    texts = ["a cat", "a photo of a dog on the beach"]
    images = cosines(half.encode_frames(frames[:1]), encoder.encode_frames(frames[:1]))
    words = cosines(half.encode_text(texts), encoder.encode_text(texts))
    print(f"bfloat16 against float32: images {images.min():.6f}, texts {words.min():.6f}")
    assert images.min() >= 0.999
    assert words.min() >= 0.999
    assert half.logit_scale == encoder.logit_scale
    assert half.encode_frames(frames[:1]).dtype == np.float32


def test_int8_keeps_near_float32(t16_files, encoder, frames):
    small = PerceptionEncoder(NAME, weights=t16_files["safetensors"], dtype="int8")
    texts = ["a cat", "a photo of a dog on the beach"]
    images = cosines(small.encode_frames(frames), encoder.encode_frames(frames))
    words = cosines(small.encode_text(texts), encoder.encode_text(texts))
    print(f"int8 against float32: images {images.min():.6f}, texts {words.min():.6f}")
    assert images.min() >= 0.99
    assert words.min() >= 0.99


def test_auto_is_bfloat16_on_processors_that_compute_in_it_only(monkeypatch):
    from perception_search.encoder import device

    for flags, dtype in (({"avx2"}, "float32"), ({"avx2", "avx512_bf16"}, "bfloat16"),
                         ({"amx_bf16"}, "bfloat16"), (set(), "float32")):  # fmt: skip
        monkeypatch.setattr(device, "cpu_flags", lambda flags=flags: frozenset(flags))
        assert PerceptionEncoder(NAME, device="cpu").dtype == dtype


def test_auto_is_the_best_device_there_is(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert PerceptionEncoder(NAME).device == torch.device("cuda")
    assert PerceptionEncoder(NAME, dtype="int8").device == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert PerceptionEncoder(NAME).device == torch.device("mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert PerceptionEncoder(NAME).device == torch.device("cpu")


def test_the_batch_size_suits_the_device_unless_it_is_given(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert PerceptionEncoder(NAME, device="cpu").batch_size == max(4, torch.get_num_threads())
    assert PerceptionEncoder("PE-Core-B16-224", device="cuda").batch_size == 256
    assert PerceptionEncoder("PE-Core-G14-448", device="cuda").batch_size == 64
    assert PerceptionEncoder(NAME, device="cuda", batch_size=3).batch_size == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float16"}, "dtype='float16'; one of auto, float32, bfloat16, int8"),
        ({"device": "gpu"}, "device='gpu'; one of auto, cpu, cuda, cuda:<n>, mps"),
        ({"device": "cuda", "dtype": "int8"}, "int8 is for device='cpu'"),
        ({"batch_size": 0}, "batch_size=0; must be >= 1"),
    ],
)
def test_other_options_are_refused_with_those_that_go(options, message):
    with pytest.raises(ValueError, match=message):
        PerceptionEncoder(NAME, **options)


def test_the_provenance_names_device_dtype_and_version(encoder):
    assert encoder.provenance == {
        "device": "cpu",
        "dtype": "float32",
        "torch": str(torch.__version__),
    }


def test_long_texts_can_be_split_into_pieces_whose_mean_counts(encoder, t16_files):
    splitting = PerceptionEncoder(
        NAME, weights=t16_files["safetensors"], dtype="float32", long_texts="split"
    )
    words = "cat " * 30, "dog " * 15  # a row holds 30 tokens
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        texts = ["a cat", "".join(words), "", words[1] + words[0]]
        short, long, empty, turned = splitting.encode_text(texts)
    first, second, other = encoder.encode_text([*words, words[1] + words[0][:60]])
    expected = 30 * first.astype(np.float64) + 15 * second
    np.testing.assert_allclose(long, expected / np.linalg.norm(expected), rtol=0, atol=1e-5)
    np.testing.assert_allclose(
        [short, empty], encoder.encode_text(["a cat", ""]), rtol=0, atol=1e-5
    )
    expected = 30 * other.astype(np.float64) + 15 * encoder.encode_text([words[0][:60]])[0]
    np.testing.assert_allclose(turned, expected / np.linalg.norm(expected), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="long_texts='drop'; 'cut' or 'split'"):
        PerceptionEncoder(NAME, long_texts="drop")


# The way in


def test_it_is_an_encoder(encoder):
    assert isinstance(encoder, Encoder)


def test_the_models_there_are_can_be_listed():
    assert [model.name for model in PerceptionEncoder.available()] == list(MODELS)


def test_a_model_without_text_tower_says_what_it_is_for():
    with pytest.raises(ModelNotFound, match=r"PE-Lang-L14-448 has no text tower: .*Extractor"):
        PerceptionEncoder("PE-Lang-L14-448")


def test_an_encoder_is_loaded_by_its_name(t16_files):
    encoder = load_encoder("facebook/" + NAME, weights=t16_files["pt"], device="cpu", dtype="int8")
    assert isinstance(encoder, PerceptionEncoder)
    assert (encoder.identity.model, encoder.dtype) == (NAME, "int8")
    with pytest.raises(ModelNotFound, match=r"no model 'resnet50'; known: .*, and `starter`"):
        load_encoder("resnet50")


def test_importing_encoders_imports_no_torch():
    code = (
        "import sys, perception_search.encoder as e; e.Encoder, e.Identity; e.PerceptionEncoder;"
        "assert not {'torch', 'PIL', 'tokenizers', 'ftfy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    import perception_search.encoder

    with pytest.raises(AttributeError, match="no attribute 'Perceptron'"):
        perception_search.encoder.Perceptron  # noqa: B018
