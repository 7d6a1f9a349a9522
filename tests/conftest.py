"""What tests in more than one folder use."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    """Run a command in this process: (exit code, stdout, stderr)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        from perception_search import cli

        monkeypatch.setattr(sys, "argv", ["perception-search", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return run


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
