import json
import shutil
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from golden import recipe
from PIL import Image
from synthetic import MINI_CLS, MINI_LANG, MINI_NOCLS, T16, tower_state

from perception_search import PerceptionEncoder
from perception_search.encoder import onnx_export
from perception_search.encoder.onnx_export import OPSETS, export_onnx, write_tower
from perception_search.encoder.tokenizer import tokenize
from perception_search.encoder.towers import TextTower, VisionTower
from perception_search.errors import ExportError, MissingExtra, ModelNotFound
from perception_search.frames import prepare_image

MINI = {"mini_cls": MINI_CLS, "mini_nocls": MINI_NOCLS}
TEXTS = ["a dog", "two cats on a red sofa", "the harbour at night, seen from a hill above it"]


def filled(tower, prefix=""):
    tower.load_state_dict(tower_state(tower, prefix), assign=True)
    return tower.requires_grad_(False).eval()


def outputs(path, values):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    [given] = session.get_inputs()
    [output] = session.run(None, {given.name: np.asarray(values)})
    return output


def close(actual, expected, atol=1e-4):
    assert actual.shape == tuple(expected.shape)
    np.testing.assert_allclose(actual, np.asarray(expected), rtol=0, atol=atol)


def random_pixels(tower, batch):
    size = tower.config.image_size
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(batch))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Every small tower by its name, with its file."""
    folder = tmp_path_factory.mktemp("onnx")
    towers = {"lang.vision": filled(VisionTower(MINI_LANG), "visual.")}
    for name, config in MINI.items():
        towers[f"{name}.vision"] = filled(VisionTower(config.vision), "visual.")
        towers[f"{name}.text"] = filled(TextTower(config.text))
    return {
        name: (tower, write_tower(tower, folder / f"{name}.onnx", {"model": name}))
        for name, tower in towers.items()
    }


@pytest.mark.parametrize("name", ["mini_cls", "mini_nocls", "lang"])
@pytest.mark.parametrize("batch", [1, 3])
def test_any_number_of_pictures_gives_what_torch_gives(written, name, batch):
    tower, file = written[f"{name}.vision"]
    pixels = random_pixels(tower, batch)
    close(outputs(file.path, pixels), tower(pixels))


@pytest.mark.parametrize("name", MINI)
@pytest.mark.parametrize("texts", [TEXTS[:1], TEXTS])
def test_any_number_of_texts_of_any_length_gives_what_torch_gives(written, name, texts):
    tower, file = written[f"{name}.text"]
    rows = torch.from_numpy(tokenize(texts, tower.config.context_length))
    close(outputs(file.path, rows), tower(rows))
    cut = rows[:, : int((rows > 0).sum(dim=1).max())]
    assert cut.shape[1] < rows.shape[1]
    close(outputs(file.path, cut), tower(rows))
    alone = np.concatenate([outputs(file.path, row[None, row > 0]) for row in rows])
    close(alone, tower(rows))


@pytest.mark.parametrize("name", MINI)
def test_the_files_give_what_the_reference_gives(written, name, golden):
    size = MINI[name].vision.image_size
    images = recipe.image(f"{name}/img", 2, size, size)
    close(outputs(written[f"{name}.vision"][1].path, images), golden[f"{name}/encode_image"])
    rows = np.zeros((3, MINI[name].text.context_length), np.int64)
    for row, ids in zip(rows, [[320, 2368], [320, 1125, 539, 320], range(500, 530)], strict=True):
        row[: len(ids) + 2] = [49406, *ids, 49407]
    text = written[f"{name}.text"][1].path
    close(outputs(text, rows), golden[f"{name}/encode_text"])
    close(outputs(text, rows[:2, :10]), golden[f"{name}/encode_text_short_pad10"])


def test_a_file_says_what_goes_in_and_comes_out(written):
    shapes = {}
    for name, (_, file) in written.items():
        session = onnxruntime.InferenceSession(file.path)
        [given], [output] = session.get_inputs(), session.get_outputs()
        shapes[name] = (given.name, given.type, given.shape, output.name, output.shape)
    assert shapes["mini_cls.vision"] == (
        "pixels", "tensor(float)", ["batch", 3, 64, 64], "embeddings", ["batch", 48]
    )  # fmt: skip
    assert shapes["mini_cls.text"] == (
        "tokens", "tensor(int64)", ["batch", "length"], "embeddings", ["batch", 48]
    )  # fmt: skip
    assert shapes["lang.vision"][3:] == ("tokens", ["batch", 17, 96])


def test_what_was_measured_is_what_is_reported(written):
    for tower, file in written.values():
        assert 0 < file.max_difference < 1e-5
        assert file.size_bytes == file.path.stat().st_size
        num_bytes = sum(p.nbytes for p in tower.parameters())
        assert num_bytes - 4 <= file.size_bytes < num_bytes + 400_000
        assert file.data_path is None


def test_no_file_tells_where_the_code_lay(written):
    for _, file in written.values():
        assert b".py" not in file.path.read_bytes()


def test_the_newest_operators_do_as_well(written, tmp_path):
    tower, _ = written["mini_nocls.text"]
    file = write_tower(tower, tmp_path / "new.onnx", {}, opset=OPSETS[-1])
    [opset] = onnx.load(file.path).opset_import
    assert opset.version == OPSETS[-1]
    assert file.max_difference < 1e-5


def test_large_weights_stand_beside_their_graph(written, tmp_path, monkeypatch):
    tower, inline = written["mini_cls.text"]
    monkeypatch.setattr(onnx_export, "_INLINE_BYTES", 0)
    file = write_tower(tower, tmp_path / "big.onnx", {})
    assert sorted(tmp_path.iterdir()) == [file.path, file.data_path]
    assert file.data_path.name == "big.onnx.data"
    assert file.size_bytes == sum(path.stat().st_size for path in tmp_path.iterdir())
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for path in (file.path, file.data_path):
        path.rename(moved / path.name)
    rows = tokenize(TEXTS, tower.config.context_length)
    np.testing.assert_array_equal(outputs(moved / "big.onnx", rows), outputs(inline.path, rows))


def as_written_before(monkeypatch, file):
    """Writing a tower copies that file, which takes no time."""
    monkeypatch.setattr(onnx_export, "_write", lambda _t, path, *_: shutil.copy(file.path, path))


def test_a_file_that_differs_from_torch_is_left_out(written, tmp_path, monkeypatch):
    _, file = written["mini_cls.text"]
    as_written_before(monkeypatch, file)
    other = filled(TextTower(MINI_CLS.text))
    write_tower(other, tmp_path / "same.onnx", {})
    with torch.no_grad():
        other.ln_final.bias[3] += 0.01
    with pytest.raises(ExportError, match=r"differs from torch by \d.*at most 1e-04"):
        write_tower(other, tmp_path / "other.onnx", {})
    assert [path.name for path in tmp_path.iterdir()] == ["same.onnx"]
    with torch.no_grad():
        other.ln_final.bias[3] = np.nan
    with pytest.raises(ExportError, match="by nan"):
        write_tower(other, tmp_path / "other.onnx", {})
    assert write_tower(other, tmp_path / "other.onnx", {}, check=False).max_difference is None


def test_an_interrupted_export_leaves_what_was_there(written, tmp_path, monkeypatch):
    tower, file = written["mini_cls.text"]

    def half(_tower, path, *_):
        path.write_bytes(file.path.read_bytes()[:1000])
        raise KeyboardInterrupt

    monkeypatch.setattr(onnx_export, "_write", half)
    with pytest.raises(KeyboardInterrupt):
        write_tower(tower, tmp_path / "new.onnx", {})
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "old.onnx").write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        write_tower(tower, tmp_path / "old.onnx", {}, overwrite=True)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_a_damaged_file_is_left_out(written, tmp_path, monkeypatch):
    tower, file = written["mini_cls.text"]
    half = file.path.read_bytes()[:1000]
    monkeypatch.setattr(onnx_export, "_write", lambda _t, path, *_: path.write_bytes(half))
    with pytest.raises(ExportError, match="cannot be run"):
        write_tower(tower, tmp_path / "half.onnx", {})
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_replaced_only_where_that_is_wanted(written, tmp_path, monkeypatch):
    tower, file = written["mini_cls.text"]
    as_written_before(monkeypatch, file)
    for name in ("text.onnx", "text.onnx.data"):
        (tmp_path / name).write_bytes(b"old")
        with pytest.raises(ExportError, match=f"{name} is already there"):
            write_tower(tower, tmp_path / "text.onnx", {})
        assert (tmp_path / name).read_bytes() == b"old"
        write_tower(tower, tmp_path / "text.onnx", {}, overwrite=True)
        assert [path.name for path in tmp_path.iterdir()] == ["text.onnx"]
        (tmp_path / "text.onnx").unlink()
    (tmp_path / "text.onnx").mkdir()
    with pytest.raises(ExportError, match="is a folder"):
        write_tower(tower, tmp_path / "text.onnx", {}, overwrite=True)


def test_without_onnxruntime_a_file_is_written_but_not_compared(written, tmp_path, monkeypatch):
    tower, file = written["mini_cls.text"]
    as_written_before(monkeypatch, file)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert write_tower(tower, tmp_path / "text.onnx", {}).max_difference is None


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_without_the_extra_it_is_named(package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=r"pip install 'perception-search\[onnx\]'"):
        export_onnx(T16.name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_a_model_lacks_or_onnx_has_not_is_refused(tmp_path):
    with pytest.raises(ModelNotFound, match="no text tower"):
        export_onnx("PE-Lang-L14-448", tmp_path, tower="text")
    with pytest.raises(ValueError, match="one of vision, text, both"):
        export_onnx(T16.name, tmp_path, tower="visual")
    with pytest.raises(ValueError, match="must be 18 to 25"):
        export_onnx(T16.name, tmp_path, opset=17)


def test_a_released_model_is_exported_by_the_command(run, t16_files, tmp_path, monkeypatch):
    weights = t16_files["safetensors"]
    folder = tmp_path / "made" / "here"
    command = ["export-onnx", f"facebook/{T16.name}", "--weights", weights, "--out", folder]
    code, out, err = run(*command)
    assert code == 0, err
    names = [f"{T16.name}.{tower}.onnx" for tower in ("vision", "text")]
    for line, name in zip(out.splitlines(), names, strict=True):
        assert line.startswith(f"{folder / name}  ")
        assert "within" in line
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)

    encoder = PerceptionEncoder(T16.name, weights=weights, device="cpu", dtype="float32")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8))
    pixels = prepare_image(picture, encoder.frame_spec)[None]
    images = outputs(folder / names[0], np.float32(pixels) / 127.5 - 1)
    close(images, encoder.encode_frames(pixels))
    rows = tokenize(TEXTS, T16.text.context_length)
    texts = outputs(folder / names[1], rows)
    close(texts / np.linalg.norm(texts, axis=1, keepdims=True), encoder.encode_text(TEXTS))

    identity = encoder.identity
    said = [onnxruntime.InferenceSession(folder / name).get_modelmeta() for name in names]
    vision, text = (meta.custom_metadata_map for meta in said)
    assert vision["tower_sha256"] == identity.vision_sha256
    assert text["tower_sha256"] == identity.text_sha256
    assert vision["preprocessing"] == identity.preprocessing
    assert float(text["logit_scale"]) == pytest.approx(encoder.logit_scale)
    for each, tower in ((vision, "vision"), (text, "text")):
        assert (each["model"], each["tower"], each["licence"]) == (T16.name, tower, "Apache-2.0")

    before = [(folder / name).stat().st_mtime_ns for name in names]
    code, out, err = run(*command)
    assert (code, out) == (1, "")
    assert err == (
        f"{folder / names[0]} is already there; choose another folder, or overwrite it.\n"
    )
    assert [(folder / name).stat().st_mtime_ns for name in names] == before
    monkeypatch.setattr(onnx_export, "_write", lambda _t, path, *_: path.write_bytes(b"new"))
    code, out, err = run(*command, "--tower", "vision", "--overwrite", "--no-check", "--json")
    assert code == 0, err
    file = json.loads(out)
    assert (file["path"], file["max_difference"]) == (str(folder / names[0]), None)
    after = [(folder / name).stat().st_mtime_ns for name in names]
    assert after[0] > before[0]
    assert after[1] == before[1]


def test_wrong_weights_are_answered_in_a_sentence(run, tmp_path):
    (tmp_path / "no.safetensors").write_bytes(b"nothing")
    code, out, err = run("export-onnx", T16.name, "--weights", tmp_path / "no.safetensors")
    assert (code, out) == (1, "")
    assert "cannot be read as a weights file" in err
    assert "Traceback" not in err
