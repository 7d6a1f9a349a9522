"""What tests in more than one folder use."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def t16_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """PE-Core-T16-384 as a safetensors file and as a torch file."""
    import torch
    from safetensors.torch import save_file
    from synthetic import T16, model_state

    folder = tmp_path_factory.mktemp("t16")
    state = model_state(T16)
    save_file(state, folder / f"{T16.name}.safetensors")
    wrapped = {"state_dict": {f"module.{key}": value for key, value in state.items()}}
    torch.save(wrapped, folder / f"{T16.name}.pt")
    return {kind: folder / f"{T16.name}.{kind}" for kind in ("safetensors", "pt")}
