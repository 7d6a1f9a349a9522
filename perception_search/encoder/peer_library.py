"""Imports other people's libraries of models, which the user installed."""

import contextlib
from importlib import import_module
from typing import Any

_OPERATORS = ("nms", "qnms")  # of torchvision, which a CPU build of torch may not have
_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def import_library(name: str) -> Any:
    """The library; where torchvision lacks its operators, with a declaration in their place.

    Args:
        name: `open_clip` or `timm`.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    try:
        return import_module(name)
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    import torch

    for operator in _OPERATORS:
        with contextlib.suppress(RuntimeError):  # declared already
            torch.library.define(f"torchvision::{operator}", _SIGNATURE)
    return import_module(name)
