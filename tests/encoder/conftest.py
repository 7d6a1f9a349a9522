from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERCEPTION_SEARCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PERCEPTION_SEARCH_WEIGHTS", raising=False)


@pytest.fixture(scope="session")
def golden() -> Mapping[str, np.ndarray]:
    return np.load(Path(__file__).parent / "golden" / "golden_synthetic.npz")
