"""Real media that are not in the repository: the folder that PERCEPTION_SEARCH_DATA names."""

import os
from pathlib import Path

import pytest


def folder(name):
    """A part of the data; the test is skipped, saying so, where there is none.

    Where the variable is set a missing part fails the test instead.
    """
    root = os.environ.get("PERCEPTION_SEARCH_DATA")
    if not root:
        pytest.skip("PERCEPTION_SEARCH_DATA is not set: no real media to test with")
    path = Path(root) / name
    if not path.is_dir():
        pytest.fail(f"PERCEPTION_SEARCH_DATA is set, but {path} is not there")
    return path
