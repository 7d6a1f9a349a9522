"""Which model to take when none was named, and what to say of the one that was taken."""

from pathlib import Path

from perception_search.encoder.config import resolve_name
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
        weights: where weights were said to be; the model whose file lies there is taken.

    Raises:
        WeightsNotFound: `weights` was given but holds none of the two.
    """
    from perception_search.assets import hub_answers
    from perception_search.encoder.weights import find_weights

    names = ("PE-Core-L14-336", "PE-Core-B16-224")
    if weights is not None and Path(weights).is_file():
        return resolve_name(Path(weights).stem)
    preferred = names[0] if _has_gpu(device) else names[1]
    order = (preferred, *(name for name in names if name != preferred))
    for name in order:
        try:
            find_weights(name, weights, local_only=True)
        except WeightsNotFound:
            if weights is not None and name == order[-1]:
                raise
        else:
            return name
    return preferred if hub_answers() else STARTER


def notice_for(model: str) -> str | None:
    """What everyone who sees results should know of a model; None for PE."""
    return STARTER_NOTICE if model == STARTER else None


def _has_gpu(device: str) -> bool:
    if device != "auto":
        return device.startswith(("cuda", "mps"))
    import torch

    return torch.cuda.is_available() or torch.backends.mps.is_available()
