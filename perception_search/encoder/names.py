"""The names that models go by, here and elsewhere; knows no files."""

from perception_search.encoder.config import MODELS
from perception_search.errors import ModelNotFound

_SIZES = {"T": "tiny", "S": "small", "B": "base", "L": "large", "G": "gigantic"}
_BIRDER_ENDS = {  # family: what stands around the size in birder's name
    "core": ("rope_i_vit_", "_pn_aps_c1_pe-core"),
    "spatial": ("rope_i_vit_reg1_", "_pn_npn_avg_c1_pe-spatial"),
}
_PREFIXES = ("hf-hub:", "hf_hub:", "facebook/", "timm/", "birder-project/")


def resolve_name(name: str) -> str:
    """The name as Meta released it.

    Args:
        name: that name, or what open_clip (`PE-Core-L-14-336`), timm
            (`vit_pe_core_large_patch14_336.fb`) or birder (`rope_i_vit_l14_pn_aps_c1_pe-core`)
            call the same model, with or without where it is on the hub (`facebook/`, `timm/`).

    Raises:
        ModelNotFound: for any other name; the message lists the known ones.
    """
    bare = name
    for prefix in _PREFIXES:
        bare = bare.removeprefix(prefix)
    known = {each.lower(): model for model in MODELS for each in (model, *names_elsewhere(model))}
    released = known.get(bare.lower())
    if released is None:
        raise ModelNotFound(f"no model {name!r}; known: {', '.join(MODELS)}, and `starter`")
    return released


def names_elsewhere(name: str) -> list[str]:
    """What open_clip, timm and birder call a model; nothing for a name that is not released."""
    model = MODELS.get(name)
    if model is None:
        return []
    family, vision = model.family, model.vision
    letter, patch, size = name.split("-")[2][0], vision.patch_size, vision.image_size
    tiling = "_tiling" if name.endswith("-Tiling") else ""
    timm = f"vit_pe_{family}_{_SIZES[letter]}_patch{patch}_{size}"
    names = [f"{timm}.fb{tiling}", *([] if tiling else [timm])]
    if family == "core":
        letter_there = "bigG" if letter == "G" else letter
        names.append(f"PE-Core-{letter_there}-{patch}" + ("" if letter == "B" else f"-{size}"))
    if family in _BIRDER_ENDS:
        before, behind = _BIRDER_ENDS[family]
        names.append(f"{before}{letter.lower()}{patch}{behind}")
        names.append(f"pe_{family}_{letter.lower()}{patch}")
    return names
