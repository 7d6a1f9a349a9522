"""Weights as other libraries name them, key by key; apart from the table that reads them."""

import torch

# Meta's name: timm's, birder's
AROUND = {
    "conv1.weight": ("patch_embed.proj.weight", "conv_proj.weight"),
    "ln_pre.weight": ("norm_pre.weight", "encoder.pre_block.0.weight"),
    "ln_pre.bias": ("norm_pre.bias", "encoder.pre_block.0.bias"),
    "ln_post.weight": ("norm.weight", "norm.weight"),
    "ln_post.bias": ("norm.bias", "norm.bias"),
    "attn_pool.probe": ("attn_pool.latent", "attn_pool.latent"),
    "attn_pool.attn.out_proj.weight": ("attn_pool.proj.weight", "attn_pool.proj.weight"),
    "attn_pool.attn.out_proj.bias": ("attn_pool.proj.bias", "attn_pool.proj.bias"),
    "attn_pool.layernorm.weight": ("attn_pool.norm.weight", "attn_pool.norm.weight"),
    "attn_pool.layernorm.bias": ("attn_pool.norm.bias", "attn_pool.norm.bias"),
    "attn_pool.mlp.c_fc.weight": ("attn_pool.mlp.fc1.weight", "attn_pool.mlp.0.weight"),
    "attn_pool.mlp.c_fc.bias": ("attn_pool.mlp.fc1.bias", "attn_pool.mlp.0.bias"),
    "attn_pool.mlp.c_proj.weight": ("attn_pool.mlp.fc2.weight", "attn_pool.mlp.3.weight"),
    "attn_pool.mlp.c_proj.bias": ("attn_pool.mlp.fc2.bias", "attn_pool.mlp.3.bias"),
}
BLOCK = {
    "ln_1.weight": ("norm1.weight", "norm1.weight"),
    "ln_1.bias": ("norm1.bias", "norm1.bias"),
    "attn.in_proj_weight": ("attn.qkv.weight", "attn.qkv.weight"),
    "attn.in_proj_bias": ("attn.qkv.bias", "attn.qkv.bias"),
    "attn.out_proj.weight": ("attn.proj.weight", "attn.proj.weight"),
    "attn.out_proj.bias": ("attn.proj.bias", "attn.proj.bias"),
    "ln_2.weight": ("norm2.weight", "norm2.weight"),
    "ln_2.bias": ("norm2.bias", "norm2.bias"),
    "mlp.c_fc.weight": ("mlp.fc1.weight", "mlp.0.weight"),
    "mlp.c_fc.bias": ("mlp.fc1.bias", "mlp.0.bias"),
    "mlp.c_proj.weight": ("mlp.fc2.weight", "mlp.3.weight"),
    "mlp.c_proj.bias": ("mlp.fc2.bias", "mlp.3.bias"),
    "ls_1.gamma": ("gamma_1", None),
    "ls_2.gamma": ("gamma_2", None),
}
TIMM, BIRDER = 0, 1


def common(vision, whose):
    """What timm's layout and birder's have in common."""
    blocks = ("blocks", "encoder.block")[whose]
    names = {meta: theirs[whose] for meta, theirs in AROUND.items()} | {
        f"transformer.resblocks.{i}.{meta}": f"{blocks}.{i}.{theirs[whose]}"
        for i in range(50)
        for meta, theirs in BLOCK.items()
    }
    state = {names[meta]: tensor for meta, tensor in vision.items() if meta in names}
    for kind in ("weight", "bias"):
        if (joined := vision.get(f"attn_pool.attn.in_proj_{kind}")) is not None:
            query, key, value = joined.chunk(3)
            state[f"attn_pool.q.{kind}"] = query.clone()
            state[f"attn_pool.kv.{kind}"] = torch.cat([key, value])
    return state


def in_timm(vision):
    state = common(vision, TIMM)
    state["pos_embed"] = vision["positional_embedding"][None].clone()
    if "class_embedding" in vision:
        state["cls_token"] = vision["class_embedding"][None, None].clone()
    if "proj" in vision:
        state["head.weight"] = vision["proj"].T.contiguous()
        state["head.bias"] = torch.zeros(vision["proj"].shape[1])
    return state


def in_birder(vision):
    state = common(vision, BIRDER)
    state["pos_embedding"] = vision["positional_embedding"][None].clone()
    if "class_embedding" in vision:
        token = "class_token" if "attn_pool.probe" in vision else "reg_tokens"
        state[token] = vision["class_embedding"][None, None].clone()
    return state


def in_open_clip(state):
    trunk = {f"visual.trunk.{key}": tensor for key, tensor in in_timm(vision_of(state)).items()}
    text = {f"text.{key}": tensor for key, tensor in text_of(state).items()}
    text["logit_scale"] = text.pop("text.logit_scale")
    return trunk | text


def vision_of(state):
    return {k.removeprefix("visual."): v for k, v in state.items() if k.startswith("visual.")}


def text_of(state):
    return {key: tensor for key, tensor in state.items() if not key.startswith("visual.")}


LAYOUTS = {  # of the tensors of a released CLIP file
    "Meta": lambda state: state,
    "Meta's vision tower": vision_of,
    "open_clip": in_open_clip,
    "timm": lambda state: in_timm(vision_of(state)),
    "birder": lambda state: in_birder(vision_of(state)),
}
