"""Any model of transformers with a chat template can judge and answer; here a tiny one."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from plm_folder import make_tokenizer

from perception_search.errors import WeightsMismatch, WeightsNotFound
from perception_search.hits import Hit
from perception_search.vision_language import VisionLanguageModel

transformers = pytest.importorskip("transformers")

TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|image|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|eot_id|>{% endfor %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """LLaVA's classes: CLIP's vision tower, a projector and Llama, all tiny."""
    folder = tmp_path_factory.mktemp("vlm") / "tiny-llava"
    folder.mkdir()
    tokenizer = make_tokenizer(folder)
    vision = transformers.CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
    )
    text = transformers.LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        eos_token_id=6,
    )
    torch.manual_seed(0)
    config = transformers.LlavaConfig(vision_config=vision, text_config=text, image_token_index=2)
    model = transformers.LlavaForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.3)
    model.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    processor = {
        "processor_class": "LlavaProcessor",
        "patch_size": 14,
        "vision_feature_select_strategy": "default",
        "image_token": "<|image|>",
        "num_additional_image_tokens": 1,
    }
    (folder / "processor_config.json").write_text(json.dumps(processor))
    pictures = {
        "image_processor_type": "CLIPImageProcessorPil",
        "size": {"shortest_edge": 28},
        "crop_size": {"height": 28, "width": 28},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(pictures))
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    paths = [folder / f"{n}.png" for n in range(3)]
    for path in paths:
        Image.fromarray(rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(path)
    return paths


def test_it_judges_and_answers(folder, pictures):
    model = VisionLanguageModel(str(folder), device="cpu", dtype="float32")
    hits = [Hit(n, path, "image", 0.5) for n, path in enumerate(pictures)]
    scores = model.scores("a dog", hits)
    assert all(isinstance(score, float) and np.isfinite(score) for score in scores)
    assert len(set(scores)) == 3, "the pictures make a difference"
    assert model.scores("a dog", hits[::-1]) == pytest.approx(scores[::-1], abs=1e-5)
    assert isinstance(model.ask(pictures[0], "what is it?", max_new_tokens=4), str)
    gone = model.scores("a dog", [Hit(0, pictures[0].with_name("gone.png"), "image", 0.5)])
    assert not isinstance(gone[0], float)
    model.close()


def test_what_cannot_be_loaded_is_one_sentence(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(WeightsNotFound, match="cannot be loaded") as raised:
        VisionLanguageModel(str(tmp_path))
    assert "\n" not in str(raised.value)
    import shutil

    mute = tmp_path / "mute"
    shutil.copytree(folder, mute)
    (mute / "chat_template.jinja").unlink()
    with pytest.raises(WeightsMismatch, match="no chat template"):
        VisionLanguageModel(str(mute))
