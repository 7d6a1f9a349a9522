"""A tiny Perception LM of the real classes, with weights by chance, laid out as the hub has it."""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from perception_search.plm import network

sys.path.insert(0, str(Path(__file__).parent / "encoder"))
from other_layouts import in_timm

SPECIAL = [
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|image|>",
    "<|video|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
]
SYSTEM = "You look at pictures and answer."
TEMPLATE = (
    "{{ bos_token }}<|start_header_id|>system<|end_header_id|>\n\n"
    + SYSTEM
    + "<|eot_id|>{% for message in messages %}"
    "<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<|image|>{% endif %}"
    "{% endfor %}{% for part in message['content'] %}{% if part['type'] == 'text' %}"
    "{{ part['text'] }}{% endif %}{% endfor %}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
TEXT = ["Yes or no, yes No. What does this image show? A dog, a cat, red and green and blue."] * 4


def make_tokenizer(folder):
    """Trained on the spot: byte pairs, with Llama's control tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=1,
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    said = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": SPECIAL[0],
        "eos_token": SPECIAL[1],
        "additional_special_tokens": SPECIAL[2:],
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return tokenizer


def make_config(vocab_size, depth=1, **text):
    """`config.json`, of a vision tower of so many blocks, with these changes to the text's."""
    return {
        "architectures": ["PerceptionLMForConditionalGeneration"],
        "model_type": "perception_lm",
        "image_token_id": SPECIAL.index("<|image|>"),
        "video_token_id": SPECIAL.index("<|video|>"),
        "projector_pooling_ratio": 2,
        "vision_use_cls_token": True,
        "vision_config": {
            "model_type": "timm_wrapper",
            "architecture": "vit_pe_core_large_patch14_336",
            "model_args": {"depth": depth, "embed_dim": 1024, "img_size": [448, 448]},
        },
        "text_config": {
            "model_type": "llama",
            "vocab_size": vocab_size,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 11520,
            "eos_token_id": [SPECIAL.index("<|end_of_text|>"), SPECIAL.index("<|eot_id|>")],
            "tie_word_embeddings": True,
        }
        | text,
        "tie_word_embeddings": True,
    }


def make_plm(folder, seed=0, dtype=torch.float32, vocab_size=None, **sizes):
    """The folder of a model; returns its tensors by transformers' names."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer(folder)
    config = make_config(vocab_size or tokenizer.get_vocab_size(), **sizes)
    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(seed)
    empty = network.empty(config, network.vision_config(config))
    state = {
        name: (torch.ones(value.shape) if "norm" in name or "ln_" in name else fresh(value)).to(
            dtype
        )
        for name, value in empty.state_dict().items()
    }
    vision = {
        name.removeprefix("model.vision_tower.tower."): tensor
        for name, tensor in state.items()
        if "vision_tower" in name
    }
    named = {name: t for name, t in state.items() if "vision_tower" not in name}
    named.pop("lm_head.weight")  # tied, as the 1B and 3B have it
    timm = in_timm(vision)
    named |= {f"model.vision_tower.timm_model.{name}": t.clone() for name, t in timm.items()}
    save_file(named, folder / "model.safetensors")
    return named


def fresh(like):
    scale = 0.5 if like.ndim == 1 else (1.0 / like.shape[-1]) ** 0.5
    return torch.randn(like.shape) * scale
