"""The starter encoder on its real weights, which are fetched at the first run."""

import json
import subprocess
import sys
from itertools import islice

import av
import numpy as np
import pytest
import torch
from data import folder
from PIL import Image

from perception_search import assets
from perception_search.demo import questions
from perception_search.encoder import Encoder, starter
from perception_search.encoder.base import unit
from perception_search.encoder.starter import StarterEncoder, classes
from perception_search.errors import DownloadError, MissingExtra
from perception_search.frames import prepare_image


@pytest.fixture(autouse=True)
def own_cache():
    """Not here: what is fetched is kept, and what is kept is used."""


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Tests run side by side; OpenMP's threads would spin while they wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def encoder():
    return StarterEncoder(device="cpu")


@pytest.fixture(scope="module")
def media():
    return assets.sample_media()


@pytest.fixture(scope="module")
def sentence_vectors(encoder):
    return lambda *texts: encoder._text_tower().encode(texts)


@pytest.fixture(scope="module")
def pixels(encoder, media):
    names = ("chelsea.png", "coffee.png", "rocket.jpg", "lion.jpg", "tower.jpg")
    return np.stack([prepare_image(Image.open(media / name), encoder.frame_spec) for name in names])


# --- the class table ---


def test_every_class_has_a_name_and_a_kind():
    names, kinds, kind_of_class = classes()
    assert len(names) == 1000
    assert names[0] == "tench"
    assert names[999] == "toilet paper"
    assert sorted(set(kind_of_class.tolist())) == list(range(len(kinds)))
    kind_of = {name: kinds[kind] for name, kind in zip(names, kind_of_class, strict=True)}
    assert kind_of["Dalmatian"] == "dog"
    assert kind_of["tabby cat"] == "cat"
    assert kind_of["mountain bike"] == "bicycle"
    assert kind_of["espresso"] == "cup"


def test_the_class_names_are_those_of_the_benchmark():
    known = json.loads((folder("annotations") / "en_classnames.json").read_text())
    assert list(classes()[0]) == known["imagenet1k"]


# --- the text model ---


@pytest.mark.parametrize(
    ("first", "second", "cosine"),
    [  # computed with transformers 5.23
        ("a cat", "a kitten", 0.76628),
        ("a cat", "a dog", 0.51853),
        ("a cat", "the stock market fell", 0.09774),
        ("Strawberries!", "strawberry", 0.81168),
        ("", "a cat", 0.19244),
        ("Zwölf Boxkämpfer jagen Viktor", "a boxing match", 0.18753),
        ("a photo of a horse galloping along the beach at sunset", "riding", 0.37197),
        ("日本の猫", "a cat", -0.0055),
    ],
)
def test_sentences_are_as_near_as_transformers_says(sentence_vectors, first, second, cosine):
    one, other = sentence_vectors(first, second)
    assert one @ other == pytest.approx(cosine, abs=2e-5)


def test_a_vector_begins_as_transformers_says(sentence_vectors):
    (vector,) = sentence_vectors("a cat")
    expected = [0.0617337, 0.0414597, 0.0087634, 0.0625124]
    np.testing.assert_allclose(vector[:4], expected, atol=2e-6)


def test_padding_changes_nothing(sentence_vectors):
    texts = ["a cat", "a very long sentence about a dog that runs along the beach " * 5, "", "hm"]
    together = sentence_vectors(*texts)
    alone = np.concatenate([sentence_vectors(text) for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_what_is_beyond_256_tokens_is_not_read(sentence_vectors):
    one, other = sentence_vectors("a man " * 300, "a man " * 200)
    np.testing.assert_allclose(one, other, atol=1e-6)


def test_a_lone_surrogate_is_no_crash(encoder):
    assert np.isfinite(encoder.encode_text(["a \ud800 cat"])).all()


# --- the image model ---


def test_the_folded_network_equals_the_package(encoder, pixels):
    from efficientnet_lite_pytorch import EfficientNet

    reference = EfficientNet.from_name("efficientnet-lite0").eval()
    path = assets.starter_files("vision") / "efficientnet-lite0.pth"
    reference.load_state_dict(torch.load(path, weights_only=True))
    features, classifier = encoder._vision_tower()
    batch = (torch.from_numpy(pixels).float() - 127) / 128
    with torch.inference_mode():
        expected = reference(batch)
        found = classifier(features(batch).mean(dim=(2, 3)))
    np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=2e-4)
    names = [classes()[0][index] for index in found.argmax(dim=1)]
    assert names[:2] == ["Egyptian Mau", "espresso"]
    assert names[3] == "lion"


def test_the_top_class_of_photographs_with_known_classes(media, encoder):
    paths = sorted(media.glob("imagenet_*.jpg"))
    batch = np.stack([prepare_image(Image.open(path), encoder.frame_spec) for path in paths])
    top = encoder.encode_frames(batch)[:, :1000].argmax(axis=1)
    names = [classes()[0][index].lower() for index in top]
    right = [
        path.stem.split("_", 2)[2].replace("_", " ") == name.replace("-", " ")
        for path, name in zip(paths, names, strict=True)
    ]
    assert sum(right) >= 16


def test_an_image_embedding_is_the_square_root_of_its_distributions(encoder, pixels):
    features, classifier = encoder._vision_tower()
    batch = (torch.from_numpy(pixels[:1]).float() - 127) / 128
    with torch.inference_mode():
        maps = features(batch)[0].numpy()  # (1280, 7, 7)
    weight, bias = classifier.weight.numpy(), classifier.bias.numpy()

    def softmax(logits):
        exponentials = np.exp(logits - logits.max())
        return exponentials / exponentials.sum()

    def distribution(temperature):
        whole = softmax((weight @ maps.mean(axis=(1, 2)) + bias) / temperature)
        windows = [
            softmax((weight @ maps[:, y : y + 3, x : x + 3].mean(axis=(1, 2)) + bias) / temperature)
            for y in (0, 2, 4)
            for x in (0, 2, 4)
        ]
        return 0.5 * whole + 0.5 * np.mean(windows, axis=0)

    by_kind = np.bincount(classes()[2], distribution(1.0))
    expected = np.concatenate([0.75 * distribution(2.0), 0.25 * by_kind]) ** 0.5
    np.testing.assert_allclose(encoder.encode_frames(pixels[:1])[0], expected, atol=2e-6)


def test_a_text_embedding_is_the_square_root_of_its_distributions(encoder, sentence_vectors):
    names, kinds, _ = classes()
    cosines = [
        sentence_vectors(*(f"a photo of a {name}" for name in part))
        @ sentence_vectors("a small dog")[0]
        for part in (names, kinds)
    ]
    by_class, by_kind = (np.exp(c / 0.04) / np.exp(c / 0.04).sum() for c in cosines)
    expected = np.concatenate([0.75 * by_class, 0.25 * by_kind]) ** 0.5
    np.testing.assert_allclose(encoder.encode_text(["a small dog"])[0], expected, atol=2e-5)


def test_embeddings_have_length_one_in_both_towers(encoder, pixels):
    texts = encoder.encode_text(["a cat", "", "anything at all"])
    for vectors in (encoder.encode_frames(pixels), texts):
        assert vectors.dtype == np.float32
        assert vectors.shape[1] == encoder.dim == encoder.identity.dim
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_the_batch_size_changes_nothing(pixels, encoder):
    small = StarterEncoder(device="cpu", batch_size=2)
    np.testing.assert_allclose(
        small.encode_frames(pixels), encoder.encode_frames(pixels), atol=1e-5
    )


def test_a_still_shown_for_long_is_the_still(encoder, pixels):
    still = encoder.encode_frames(pixels[:1])[0]
    video = encoder.encode_video(np.repeat(pixels[:1], 3, axis=0))
    np.testing.assert_allclose(unit(video), still, atol=1e-5)


def test_pictures_come_as_paths_pictures_and_arrays(encoder, media):
    path = media / "rocket.jpg"
    array = np.asarray(Image.open(path).convert("RGB"))
    vectors = encoder.encode_images([path, str(path), Image.open(path), array])
    assert (vectors @ vectors[0]).min() > 0.999


def test_nothing_in_nothing_out(encoder):
    assert encoder.encode_images([]).shape == (0, encoder.dim)
    assert encoder.encode_text([]).shape == (0, encoder.dim)
    assert encoder.encode_frames(np.zeros((0, 3, 224, 224), np.uint8)).shape == (0, encoder.dim)


# --- what it finds ---


def test_a_cat_is_told_from_a_dog(encoder, media):
    cat = encoder.classify(media / "chelsea.png", ["a cat", "a dog"])
    dog = encoder.classify(media / "imagenet_16_dalmatian.jpg", ["a cat", "a dog"])
    assert list(cat) == ["a cat", "a dog"]
    assert sum(cat.values()) == pytest.approx(1)
    assert cat["a cat"] > 0.95
    assert dog["a dog"] > 0.95


def frames_of(path, spec):
    """A frame a second of a video, a picture as it is."""
    if path.suffix not in (".mp4", ".avi"):
        return np.stack([prepare_image(Image.open(path), spec)])
    with av.open(str(path)) as container:
        rate = round(container.streams.video[0].average_rate)
        frames = islice(container.decode(video=0), 0, None, rate)
        return np.stack([prepare_image(frame.to_image(), spec) for frame in frames])


def test_the_ten_queries_of_the_demo_find_what_people_saw(encoder, media):
    paths = sorted(media.iterdir())
    vectors = []
    for path in paths:
        embeddings = encoder.encode_frames(frames_of(path, encoder.frame_spec))
        parts = [embeddings[start : start + 10] for start in range(0, len(embeddings), 10)]
        vectors.append(np.stack([unit(part.mean(axis=0)) for part in parts]))
    answers = questions()
    right = {}
    for query, text in zip(answers, encoder.encode_text(list(answers)), strict=True):
        scores = [float((parts @ text).max()) for parts in vectors]
        right[query] = paths[int(np.argmax(scores))].name in answers[query]
    assert [query for query, is_right in right.items() if not is_right] == []


# --- its place among encoders ---


def test_it_is_an_encoder(encoder):
    assert isinstance(encoder, Encoder)
    assert encoder.identity.model == "starter"
    assert encoder.dim % 8 == 0
    assert set(encoder.provenance) == {"device", "dtype", "torch"}


def test_its_identity_needs_no_file_and_changes_with_the_class_table(monkeypatch):
    monkeypatch.setattr(starter, "starter_files", lambda _: pytest.fail("a file was fetched"))
    before = StarterEncoder().identity
    assert before.vision_sha256 != before.text_sha256
    monkeypatch.setattr(starter, "_class_table", lambda: b"other")
    after = StarterEncoder().identity
    assert after.vision_sha256 != before.vision_sha256
    assert after.text_sha256 != before.text_sha256


@pytest.mark.parametrize(("unused", "use"), [("text", "images"), ("vision", "text")])
def test_one_tower_is_loaded_without_the_other(monkeypatch, media, unused, use):
    real = assets.starter_files
    monkeypatch.setattr(
        starter,
        "starter_files",
        lambda tower: pytest.fail(f"{tower} loaded") if tower == unused else real(tower),
    )
    fresh = StarterEncoder(device="cpu")
    if use == "images":
        fresh.encode_images([media / "lion.jpg"])
    else:
        fresh.encode_text(["a lion"])


@pytest.mark.parametrize("tower", ["vision", "text"])
def test_damaged_weights_are_refused_before_they_are_read(monkeypatch, tmp_path, tower):
    for name in assets.starter_sha256(tower):
        content = bytearray((assets.starter_files(tower) / name).read_bytes())
        content[len(content) // 2] ^= 1
        (tmp_path / name).write_bytes(content)
    monkeypatch.setattr(starter, "starter_files", lambda _: tmp_path)
    fresh = StarterEncoder(device="cpu")
    with pytest.raises(DownloadError, match="is damaged; delete it"):
        fresh._vision_tower() if tower == "vision" else fresh._text_tower()


def test_a_missing_extra_is_named(monkeypatch, pixels):
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(MissingExtra, match=r"pip install 'perception-search\[starter\]'"):
        StarterEncoder(device="cpu").encode_frames(pixels)


def test_name_vectors_are_kept_and_damaged_ones_made_again(monkeypatch, tmp_path):
    monkeypatch.setattr(starter, "cache_folder", lambda: tmp_path)

    class Counted:
        num_calls = 0

        def encode(self, texts):
            Counted.num_calls += 1
            return np.full((len(texts), 384), len(texts[0]), np.float32)

    def vectors():
        fresh = StarterEncoder(device="cpu")
        monkeypatch.setattr(fresh, "_text_tower", Counted)
        return fresh._name_vectors

    first = vectors()
    assert first.shape == (StarterEncoder().dim, 384)
    np.testing.assert_array_equal(vectors(), first)
    assert Counted.num_calls == 1
    (kept,) = tmp_path.iterdir()
    kept.write_bytes(kept.read_bytes()[:-1] + b"!")
    np.testing.assert_array_equal(vectors(), first)
    assert Counted.num_calls == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dtype": "int8"}, "dtype='int8'; the starter takes auto, float32 or bfloat16"),
        ({"device": "tpu"}, "device='tpu'; one of"),
        ({"batch_size": 0}, "batch_size=0"),
    ],
)
def test_what_it_cannot_do_is_said(arguments, message):
    with pytest.raises(ValueError, match=message):
        StarterEncoder(**arguments)


def test_wrong_pixels_texts_and_labels_are_refused(encoder):
    with pytest.raises(ValueError, match="must be uint8"):
        encoder.encode_frames(np.zeros((1, 3, 100, 100), np.uint8))
    with pytest.raises(TypeError, match="pass a list"):
        encoder.encode_text("a cat")
    with pytest.raises(TypeError, match="pass a list"):
        encoder.encode_images("cat.png")
    with pytest.raises(ValueError, match="at least one"):
        encoder.classify(Image.new("RGB", (9, 9)), [])


def test_importing_it_imports_no_torch():
    code = "import sys, perception_search.encoder.starter; print('torch' in sys.modules)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
