"""What tests in more than one folder use, and what the long forms have found as they end."""

import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

LONG = os.environ.get("PERCEPTION_SEARCH_FAULTS") == "long"


class Figures:
    """Says what each test printed, its seed and its figures, as soon as it has ended."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        terminal = self._config.pluginmanager.get_plugin("terminalreporter")
        said = "; ".join(report.capstdout.strip().split("\n"))
        if report.when == "call" and terminal is not None and said:
            terminal.ensure_newline()
            terminal.line(f"{report.nodeid} {report.outcome} in {report.duration:.0f} s: {said}")


def pytest_configure(config: pytest.Config) -> None:
    if LONG and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Figures(config))


def pytest_report_header() -> str:
    return f"{os.cpu_count()} processors, {platform.platform()}"


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
