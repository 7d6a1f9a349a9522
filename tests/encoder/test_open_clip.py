"""A model of open_clip as an encoder: equal to open_clip's own way, and through the commands."""

import json
import subprocess
from pathlib import Path

import pytest
from media_folder import colour, picture
from PIL import Image

from perception_search.encoder import load_encoder
from perception_search.errors import MissingExtra

PARITY = Path(__file__).parent.parent.parent / ".venv-parity/bin/python"
MODEL = "open_clip:ViT-S-32-alt"

AS_OPEN_CLIP_DOES = """
import json, sys
import numpy as np, torch
from PIL import Image
from perception_search import cli
from perception_search.encoder import load_encoder
from perception_search.encoder.peer_library import import_library
from perception_search.errors import PerceptionSearchError
from perception_search.frames import prepare_image

folder, weights = sys.argv[1], sys.argv[1] + "/weights.pt"
open_clip = import_library("open_clip")
torch.manual_seed(0)
model, _, transform = open_clip.create_model_and_transforms("ViT-S-32-alt", pretrained=None)
torch.save(model.state_dict(), weights)
model.eval()
images = [Image.open(f"{folder}/media/{name}.png") for name in ("wide", "tall")]
texts = ["a dog", "two cats on a very long red sofa"]
with torch.inference_mode():
    theirs = model.encode_image(torch.stack([transform(image) for image in images])).numpy()
    words = model.encode_text(open_clip.get_tokenizer("ViT-S-32-alt")(texts), normalize=True)

encoder = load_encoder("open_clip:ViT-S-32-alt", weights=weights, device="cpu", dtype="float32")
pixels = np.stack([prepare_image(image, encoder.frame_spec) for image in images])
said = []
for name in ("nothing", "ViT-S-32-alt", "ViT-B-32/nothing"):
    try:
        load_encoder(f"open_clip:{name}")
    except PerceptionSearchError as error:
        said.append(f"{type(error).__name__}: {error}")
print(json.dumps({
    "images": float(np.abs(encoder.encode_frames(pixels) - theirs).max()),
    "largest": float(np.abs(theirs).max()),
    "texts": float(np.abs(encoder.encode_text(texts) - words.numpy()).max()),
    "preprocessing": encoder.identity.preprocessing,
    "hashes": [encoder.identity.vision_sha256, encoder.identity.text_sha256],
    "said": said,
}))
classes = f"folder --root {folder}/classes --work {folder}/classes.ps --prompt {{c}}"
for command in (
    classes,
    classes,
    f"coco --root {folder}/media --annotations {folder}/captions.json --work {folder}/coco.ps",
):
    command += f" --model open_clip:ViT-S-32-alt --weights {weights} --json"
    sys.argv = ["perception-search", "eval", *command.split()]
    try:
        cli.main()
    except SystemExit as ended:
        assert not ended.code, ended.code
"""


@pytest.mark.skipif(not PARITY.exists(), reason="make parity-env brings open_clip")
def test_a_rival_goes_through_the_same_protocol(tmp_path):
    for name, size in (("wide", (320, 120)), ("tall", (90, 250))):
        (tmp_path / "media").mkdir(exist_ok=True)
        Image.fromarray(picture(len(name), size)).save(tmp_path / f"media/{name}.png")
    for name, rgb in (("red", (200, 0, 0)), ("blue", (0, 0, 200))):
        (tmp_path / "classes" / name).mkdir(parents=True)
        Image.fromarray(colour(rgb)).save(tmp_path / "classes" / name / "a.png")
    captions = [{"file": f"{name}.png", "caption": name} for name in ("wide", "tall")]
    (tmp_path / "captions.json").write_text(json.dumps(captions))
    script = tmp_path / "script.py"
    script.write_text(AS_OPEN_CLIP_DOES)
    done = subprocess.run(
        [PARITY, script, tmp_path], capture_output=True, text=True, check=False,
        env={"PYTHONPATH": str(Path(__file__).parent.parent.parent), "HOME": str(tmp_path),
             "HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    first, *results = map(json.loads, done.stdout.splitlines())
    assert first["images"] < 1e-5 * max(1, first["largest"])
    assert first["texts"] < 1e-6
    assert first["preprocessing"].startswith("centre crop to 224x224, bicubic, mean (0.48")
    assert len(set(first["hashes"])) == 2
    unknown, no_tag, no_weights = first["said"]
    assert unknown.startswith("ModelNotFound: open_clip has no model 'nothing'")
    assert no_tag.startswith("WeightsNotFound: open_clip:ViT-S-32-alt has no weights")
    assert no_weights.startswith("WeightsNotFound: open_clip cannot load ViT-B-32/nothing")
    tasks = ["zeroshot_classification", "zeroshot_classification", "zeroshot_retrieval"]
    assert [one["task"] for one in results] == tasks
    assert {one["model"] for one in results} == {MODEL}
    assert results[0]["figures"] == results[1]["figures"]
    assert (results[0]["num_embedded"], results[1]["num_embedded"]) == (2, 0)


def test_without_open_clip_it_is_said_what_to_install(monkeypatch):
    def not_installed(name):
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr("perception_search.encoder.open_clip.import_library", not_installed)
    with pytest.raises(MissingExtra, match="pip install open_clip_torch"):
        load_encoder(f"{MODEL}/openai")
    with pytest.raises(ValueError, match="dtype='int8' is for PE"):
        load_encoder(f"{MODEL}/openai", dtype="int8")
