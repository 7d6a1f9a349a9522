"""A collection made with one file of weights and opened with another: Meta's and open_clip's."""

import shutil

import numpy as np
import pytest
import torch
from media_folder import picture, write_pictures, write_video
from other_layouts import in_open_clip
from PIL import Image
from safetensors.torch import load_file, save_file
from synthetic import T16

from perception_search import Collection
from perception_search.errors import CollectionMismatch

TEXTS = ("a red door", "two cats on a sofa", "the sea at night")


@pytest.fixture(scope="module")
def made(tmp_path_factory, t16_files):
    """A collection made with Meta's file in bfloat16, and the folder with what is in it."""
    folder = tmp_path_factory.mktemp("made")
    media = write_pictures(folder / "media", 6)
    frames = [picture(seed) for seed in (100, 101) for _ in range(10)]
    write_video(media / "two.mp4", frames)
    path = folder / "photos.ps"
    photos = Collection.create(
        path, model=T16.name, weights=t16_files["pt"], device="cpu", dtype="bfloat16"
    )
    photos.ingest(media)
    return path, media


@pytest.fixture(scope="module")
def open_clip_state(t16_files):
    return in_open_clip(load_file(t16_files["safetensors"]))


def found(path, weights, dtype):
    """What a collection finds for three texts and three pictures, all embedded now."""
    photos = forgetful(path, weights, dtype)
    pictures = [Image.fromarray(picture(number)) for number in range(3)]
    return [photos.search(text) for text in TEXTS] + [
        photos.search(images=[image]) for image in pictures
    ]


def test_what_metas_file_made_in_bfloat16_is_searched_from_open_clips_in_float32(
    made, t16_files, open_clip_state, tmp_path
):
    path, _ = made
    save_file(open_clip_state, tmp_path / "open_clip_model.safetensors")
    as_made = found(path, t16_files["pt"], "bfloat16")
    elsewhere = found(path, tmp_path, "float32")
    assert len({hits[0].path for hits in elsewhere}) >= 3
    for hits, expected in zip(elsewhere, as_made, strict=True):
        assert len(hits) == 7
        assert [hit.path for hit in hits[:3]] == [hit.path for hit in expected[:3]]
        scores = {hit.path: hit.score for hit in hits}
        difference = max(abs(scores[hit.path] - hit.score) for hit in expected)
        assert 0 < difference < 0.01  # it is another computation, and nearly the same


def test_one_flipped_bit_in_the_vision_tower_is_refused(made, open_clip_state, tmp_path):
    path, media = made
    photos = opened(path, open_clip_state, "visual.trunk.blocks.5.mlp.fc1.weight", tmp_path)
    write_pictures(media, 1, first=99)
    with pytest.raises(CollectionMismatch, match="vision_sha256"):
        photos.ingest(media)
    with pytest.raises(CollectionMismatch, match="vision_sha256"):
        photos.search(images=[Image.fromarray(picture(0))])
    assert len(photos.search("a dog")) == 7  # the text tower is the collection's


def test_one_flipped_bit_in_the_text_tower_is_refused(made, open_clip_state, tmp_path):
    path, _ = made
    photos = opened(path, open_clip_state, "text.text_projection", tmp_path)
    with pytest.raises(CollectionMismatch, match="text_sha256"):
        photos.search("a dog")
    assert len(photos.search(images=[Image.fromarray(picture(0))])) == 7


def opened(path, state, key, folder):
    """The collection with weights of which one has its last bit flipped."""
    values = state[key].numpy().copy()
    values.reshape(-1).view(np.uint32)[values.size // 2] ^= 1
    assert 0 < np.abs(values - state[key].numpy()).max() < 1e-6
    save_file(state | {key: torch.from_numpy(values)}, folder / "open_clip_model.safetensors")
    return forgetful(path, folder, "float32")


def forgetful(path, weights, dtype):
    """The collection without the embeddings that it keeps of texts it was asked before."""
    shutil.rmtree(path / "cache", ignore_errors=True)
    return Collection.open(path, weights=weights, device="cpu", dtype=dtype)
