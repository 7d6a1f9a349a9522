import json
from pathlib import Path

import pytest
import safetensors
import torch
from safetensors.torch import save_file
from synthetic import MINI_CLS, MINI_NOCLS, model_state

from perception_search.encoder import weights
from perception_search.encoder.config import MODELS
from perception_search.encoder.weights import (
    find_weights,
    hash_tensors,
    load_tower,
    tower_sha256,
    tower_tensors,
)
from perception_search.errors import DownloadError, WeightsMismatch, WeightsNotFound

CPU_FLOAT32 = {"device": torch.device("cpu"), "dtype": torch.float32}
NAME = MINI_CLS.name


@pytest.fixture(scope="module")
def released():
    return model_state(MINI_CLS)


def without_prefix(state):
    return {k.removeprefix("visual."): v for k, v in state.items() if k.startswith("visual.")}


def only_text(state):
    return {k: v for k, v in state.items() if not k.startswith("visual.")}


def saved(state, path):
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return path


# Finding the file


@pytest.fixture
def no_hub(monkeypatch):
    """The hub is asked for these files, and has none."""
    asked = []

    def hub_file(repo_id, filename, *, local_only=False):
        asked.append((repo_id, filename, local_only))
        raise DownloadError("no network")

    fake_assets(monkeypatch, hub_file)
    return asked


def fake_assets(monkeypatch, hub_file):
    import sys
    import types

    module = types.ModuleType("perception_search.assets")
    module.hub_file = hub_file
    monkeypatch.setitem(sys.modules, "perception_search.assets", module)


def test_a_file_that_is_named_is_taken(tmp_path):
    path = tmp_path / "mine.safetensors"
    path.touch()
    assert find_weights(NAME, path) == path
    assert find_weights(NAME, str(path)) == path


def test_in_a_folder_safetensors_are_preferred(tmp_path):
    old = tmp_path / f"{NAME}.pt"
    old.touch()
    assert find_weights(NAME, tmp_path) == old
    new = tmp_path / f"{NAME}.safetensors"
    new.touch()
    assert find_weights(NAME, tmp_path) == new


def test_a_named_place_without_weights_is_an_error_and_nothing_else_is_tried(tmp_path, no_hub):
    for place in (tmp_path, tmp_path / "missing.pt"):
        with pytest.raises(WeightsNotFound, match=f"{place} holds no weights of mini_cls; give a"):
            find_weights(NAME, place)
    assert no_hub == []


def test_the_folder_in_the_environment_comes_before_the_hub(tmp_path, monkeypatch, no_hub):
    monkeypatch.setenv("PERCEPTION_SEARCH_WEIGHTS", str(tmp_path))
    path = tmp_path / f"{NAME}.pt"
    path.touch()
    assert find_weights(NAME) == path
    assert no_hub == []


def test_the_hub_is_asked_for_the_file_that_meta_released(tmp_path, monkeypatch):
    fake_assets(monkeypatch, lambda repo_id, filename, *, local_only=False: tmp_path / filename)
    assert find_weights("PE-Core-B16-224") == tmp_path / "PE-Core-B16-224.pt"


def test_without_weights_anywhere_the_error_says_what_was_tried(tmp_path, monkeypatch, no_hub):
    with pytest.raises(WeightsNotFound, match=r"WEIGHTS is not set, .* gave none \(no network\)"):
        find_weights(NAME)
    monkeypatch.setenv("PERCEPTION_SEARCH_WEIGHTS", str(tmp_path))
    with pytest.raises(WeightsNotFound, match=f"WEIGHTS is {tmp_path}, which holds none"):
        find_weights(NAME, local_only=True)
    file = f"{NAME}.pt"
    assert no_hub == [(f"facebook/{NAME}", file, False), (f"facebook/{NAME}", file, True)]


# Reading a tower


@pytest.mark.parametrize(
    ("suffix", "wrapper"),
    [(".safetensors", None), (".pt", None), (".pt", "state_dict"), (".pt", "weights")],
)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_both_towers_are_read_from_every_container(tmp_path, released, suffix, wrapper, prefix):
    state = {prefix + key: tensor for key, tensor in released.items()}
    if wrapper is not None:
        state = {wrapper: state}
    path = saved(state, tmp_path / f"weights{suffix}")
    for tower, expected in (("vision", without_prefix(released)), ("text", only_text(released))):
        tensors = dict(tower_tensors(path, MINI_CLS, tower))
        assert list(tensors) == sorted(expected)
        assert all(torch.equal(tensors[key], expected[key]) for key in expected)


def test_a_file_of_the_vision_tower_alone_is_read(tmp_path, released):
    path = saved(without_prefix(released), tmp_path / "weights.safetensors")
    assert len(list(tower_tensors(path, MINI_CLS, "vision"))) == 55
    assert list(tower_tensors(path, MINI_CLS, "text")) == []
    with pytest.raises(WeightsMismatch, match="holds no text tower of mini_cls, which is needed"):
        load_tower(path, MINI_CLS, "text", **CPU_FLOAT32)


def test_a_file_of_the_text_tower_alone_is_read(tmp_path, released):
    path = saved(only_text(released), tmp_path / "weights.safetensors")
    assert len(list(tower_tensors(path, MINI_CLS, "text"))) == 30
    assert list(tower_tensors(path, MINI_CLS, "vision")) == []


def test_only_the_tensors_of_the_tower_that_is_asked_for_are_touched(
    tmp_path, monkeypatch, released
):
    path = saved(released, tmp_path / "weights.safetensors")
    touched = []
    safe_open = safetensors.safe_open

    class Recorded:
        def __init__(self, *arguments, **options):
            self.file = safe_open(*arguments, **options).__enter__()

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def keys(self):
            return self.file.keys()

        def get_tensor(self, key):
            touched.append(key)
            return self.file.get_tensor(key)

    monkeypatch.setattr("safetensors.safe_open", Recorded)
    load_tower(path, MINI_CLS, "vision", **CPU_FLOAT32)
    assert set(touched) == {key for key in released if key.startswith("visual.")}
    touched.clear()
    load_tower(path, MINI_CLS, "text", **CPU_FLOAT32)
    assert set(touched) == set(only_text(released))


def test_a_tower_is_cast_except_for_the_table_of_tokens_and_the_scale(tmp_path, released):
    path = saved(released, tmp_path / "weights.safetensors")
    tower = load_tower(
        path, MINI_CLS, "text", device=torch.device("cpu"), dtype=torch.bfloat16
    ).state_dict()
    kept = {name for name, tensor in tower.items() if tensor.dtype == torch.float32}
    assert kept == {"token_embedding.weight", "logit_scale"}
    assert {tensor.dtype for tensor in tower.values()} == {torch.float32, torch.bfloat16}


# Files that are not the model's


def with_changes(state, **changes):
    changed = state | changes
    return {key: tensor for key, tensor in changed.items() if tensor is not None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"visual.conv1.weight": None},
            "is not the vision tower of mini_cls: conv1.weight is missing",
        ),
        ({"visual.extra": torch.zeros(1)}, "visual.extra is one too many"),
        (
            {"visual.proj": torch.zeros(96, 40)},
            r"visual.proj has shape \(96, 40\), not \(96, 48\)",
        ),
        (
            {"visual.proj": torch.zeros(96, 48, dtype=torch.int8)},
            "visual.proj is of torch.int8, not of a floating-point type",
        ),
        (
            {"visual.ln_pre.weight": None, "visual.proj": None, "visual.more": torch.zeros(1)},
            "ln_pre.weight is missing, and 1 more of its tensors differ",
        ),
    ],
)
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_tensor_that_does_not_fit_is_named(tmp_path, released, changes, message, suffix):
    path = saved(with_changes(released, **changes), tmp_path / f"weights{suffix}")
    with pytest.raises(WeightsMismatch, match=message):
        load_tower(path, MINI_CLS, "vision", **CPU_FLOAT32)
    with pytest.raises(WeightsMismatch, match=message):
        tower_sha256(path, MINI_CLS, "vision")
    load_tower(path, MINI_CLS, "text", **CPU_FLOAT32)  # the other tower is not hurt


def test_another_model_of_the_family_is_refused(tmp_path, released):
    path = saved(released, tmp_path / "weights.safetensors")
    with pytest.raises(WeightsMismatch, match=r"not the text tower of mini_nocls: .* has shape"):
        load_tower(path, MINI_NOCLS, "text", **CPU_FLOAT32)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("kept", [0, 100, 0.5, 0.99])
def test_a_truncated_file_is_named_with_its_size(tmp_path, released, suffix, kept):
    path = saved(released, tmp_path / f"weights{suffix}")
    content = path.read_bytes()
    size_bytes = kept if isinstance(kept, int) else int(len(content) * kept)
    path.write_bytes(content[:size_bytes])
    empty = "" if kept else ", empty"
    message = rf"{path} \({size_bytes} bytes{empty}\) cannot be read as a weights file"
    with pytest.raises(WeightsMismatch, match=message):
        load_tower(path, MINI_CLS, "vision", **CPU_FLOAT32)


def test_a_torch_file_is_never_unpickled_into_code(tmp_path):
    class Mine:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    path = saved({"visual.conv1.weight": Mine()}, tmp_path / "weights.pt")
    with pytest.raises(WeightsMismatch, match="a torch file that holds tensors only"):
        load_tower(path, MINI_CLS, "vision", **CPU_FLOAT32)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(1)], "holds list, not tensors by name"),
        ({}, "holds dict, not tensors by name"),
        ({"epoch": 3, "visual.proj": torch.zeros(1)}, "epoch is int, not a tensor"),
    ],
)
def test_a_torch_file_of_something_else_says_what_it_holds(tmp_path, content, message):
    path = saved(content, tmp_path / "weights.pt")
    with pytest.raises(WeightsMismatch, match=message):
        load_tower(path, MINI_CLS, "vision", **CPU_FLOAT32)


def test_names_that_no_layout_has_are_named(tmp_path):
    key = "model.vision_tower.timm_model.patch_embed.proj.weight"
    path = saved({key: torch.zeros(1)}, tmp_path / "weights.safetensors")
    with pytest.raises(WeightsMismatch, match=f"{path} holds 1 tensors, the first of them {key}: "):
        load_tower(path, MINI_CLS, "vision", **CPU_FLOAT32)


def test_the_weights_of_another_released_model_are_called_by_their_name(t16_files):
    message = (
        "not the vision tower of PE-Core-S16-384: .*; these are the tensors of PE-Core-T16-384$"
    )
    with pytest.raises(WeightsMismatch, match=message):
        load_tower(t16_files["pt"], MODELS["PE-Core-S16-384"], "vision", **CPU_FLOAT32)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "a Git LFS pointer"),
        (b"<!DOCTYPE html><html><body>Log in</body></html>", "a web page, as a failed download"),
        (b"GGUF\x03\x00\x00\x00", "a GGUF file"),
        (b'{"metadata": {}, "weight_map": {}}', "JSON"),
    ],
)
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_file_that_is_no_weights_file_is_called_what_it_is(tmp_path, content, what, suffix):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(
        WeightsMismatch, match=rf"{path} \({len(content)} bytes, {what}.* cannot be"
    ):
        load_tower(path, MINI_CLS, "vision", **CPU_FLOAT32)


def test_the_content_and_not_the_name_says_what_a_file_is(tmp_path, released):
    path = saved(released, tmp_path / "weights.safetensors")
    path = path.rename(tmp_path / "open_clip_pytorch_model.bin")
    load_tower(path, MINI_CLS, "vision", **CPU_FLOAT32)


# Hashes


def test_the_hash_is_the_same_for_every_layout_and_container(tmp_path, released):
    halves = {key: tensor.half() for key, tensor in released.items()}
    floats = {key: tensor.float() for key, tensor in halves.items()}
    files = [
        saved(floats, tmp_path / "a.safetensors"),
        saved(dict(reversed(floats.items())), tmp_path / "b.pt"),
        saved({"weights": {f"module.{k}": v for k, v in floats.items()}}, tmp_path / "c.pt"),
        saved(without_prefix(floats), tmp_path / "d.safetensors"),
        saved(halves, tmp_path / "e.safetensors"),
    ]
    assert len({tower_sha256(path, MINI_CLS, "vision") for path in files}) == 1
    text = [tower_sha256(path, MINI_CLS, "text") for path in files]
    assert text[3] == ""
    assert len({*text}) == 2
    assert text[0] != tower_sha256(files[0], MINI_CLS, "vision")


def test_the_hash_is_the_sha256_of_names_shapes_and_values():
    from hashlib import sha256

    tensors = {"b": torch.tensor([[1.0, 2.0]]), "a": torch.tensor(0.5)}
    expected = sha256(b"a \n\x00\x00\x00\x3fb 1x2\n\x00\x00\x80\x3f\x00\x00\x00\x40").hexdigest()
    assert hash_tensors(sorted(tensors.items())) == expected


def test_one_changed_value_changes_the_hash_of_its_tower_only(tmp_path, released):
    changed = {key: tensor.clone() for key, tensor in released.items()}
    changed["visual.proj"][0, 0] += 1e-3
    one, two = saved(released, tmp_path / "a.pt"), saved(changed, tmp_path / "b.pt")
    assert tower_sha256(one, MINI_CLS, "vision") != tower_sha256(two, MINI_CLS, "vision")
    assert tower_sha256(one, MINI_CLS, "text") == tower_sha256(two, MINI_CLS, "text")


def test_a_hash_is_computed_once_for_a_file(tmp_path, monkeypatch, released):
    path = saved(released, tmp_path / "weights.safetensors")
    hashed = []
    monkeypatch.setattr(weights, "hash_tensors", lambda tensors: hashed.append(1) or "hash")
    assert [tower_sha256(path, MINI_CLS, "vision") for _ in range(3)] == ["hash"] * 3
    assert len(hashed) == 1
    path.touch()
    tower_sha256(path, MINI_CLS, "vision")
    assert len(hashed) == 2


@pytest.mark.parametrize("content", [b"", b"not JSON", b"[]", b"\xff"])
def test_a_damaged_cache_of_hashes_is_done_without(tmp_path, released, content):
    cache = tmp_path / "cache" / "weights.json"
    cache.parent.mkdir()
    cache.write_bytes(content)
    path = saved(released, tmp_path / "weights.safetensors")
    assert len(tower_sha256(path, MINI_CLS, "vision")) == 64
    assert len(json.loads(cache.read_text())) == 1


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, monkeypatch, released):
    (tmp_path / "file").touch()
    monkeypatch.setenv("PERCEPTION_SEARCH_CACHE", str(tmp_path / "file" / "cache"))
    path = saved(released, tmp_path / "weights.safetensors")
    assert len(tower_sha256(path, MINI_CLS, "vision")) == 64


def test_the_cache_is_in_the_folder_for_caches(tmp_path, monkeypatch, released):
    monkeypatch.delenv("PERCEPTION_SEARCH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    tower_sha256(saved(released, tmp_path / "weights.pt"), MINI_CLS, "text")
    assert (tmp_path / "xdg" / "perception_search" / "weights.json").is_file()
