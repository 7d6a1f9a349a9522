"""Which model to take when none was named, and what to say of the one that was taken."""

from pathlib import Path

from perception_search.encoder.names import resolve_name
from perception_search.errors import WeightsNotFound

STARTER = "starter"

STARTER_NOTICE = (
    "This is the starter encoder, not Perception Encoder: it works offline and knows little more "
    "than ImageNet's 1,000 things. For PE, make the collection again with "
    "`perception-search create COLLECTION --model PE-Core-B16-224`."
)


def choose_model(device: str = "auto", weights: str | Path | None = None) -> str:
    """The name that `auto` stands for: PE where its weights can be had, else `starter`.

    PE-Core-L14-336 where there is a GPU, PE-Core-B16-224 where there is none; taken when its
    weights are on this machine or the hub answers. Downloads nothing itself.

    Args:
        device: as given to the encoder.
        weights: a file named as its model, or a folder of such files, if one was given.

    Raises:
        ModelNotFound: `weights` is a file whose name is no model's.
        WeightsNotFound: `weights` is a folder that holds none for this machine.
    """
    from perception_search.assets import hub_answers
    from perception_search.encoder.weights import find_weights

    if weights is not None and Path(weights).expanduser().is_file():
        return resolve_name(Path(weights).stem)
    name = "PE-Core-L14-336" if _has_gpu(device) else "PE-Core-B16-224"
    try:
        find_weights(name, weights, local_only=True)
    except WeightsNotFound:
        if weights is not None:
            raise
        return name if hub_answers() else STARTER
    return name


def notice_for(model: str) -> str | None:
    """What everyone who sees results should know of a model; None for PE."""
    return STARTER_NOTICE if model == STARTER else None


def _has_gpu(device: str) -> bool:
    if device != "auto":
        return device.startswith(("cuda", "mps"))
    import torch

    return torch.cuda.is_available() or torch.backends.mps.is_available()
