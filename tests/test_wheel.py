"""The wheel, installed outside the checkout, has all it needs."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from stores import make

from perception_search import cli

CHECKOUT = Path(__file__).parent.parent


HELP_OF_ALL = """
import sys
from perception_search import cli
for name in sys.argv[1:]:
    sys.argv = ["perception-search", name, "--help"]
    try:
        cli.main()
    except SystemExit as ended:
        assert not ended.code
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A function that runs Python with the installed wheel, far from the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    built = subprocess.run(
        [*pip, "wheel", "--no-deps", "--wheel-dir", str(folder), str(CHECKOUT)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    [wheel] = folder.glob("*.whl")
    site = folder / "site"
    command = [*pip, "install", "--no-deps", "--no-index", "--target", str(site), str(wheel)]
    subprocess.run(command, check=True)
    environment = {**os.environ, "PYTHONPATH": str(site)}

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-P", *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=folder,
            env=environment,
            check=False,
        )

    run.wheel, run.site = wheel, site
    return run


@pytest.mark.slow
def test_the_wheel_holds_what_is_needed_and_nothing_else(installed):
    names = zipfile.ZipFile(installed.wheel).namelist()
    assert "perception_search/recipes/hnsw.toml" in names
    assert "perception_search/encoder/bpe_simple_vocab_16e6.txt.gz" in names
    assert "perception_search/demo.toml" in names
    assert "perception_search/published.toml" in names
    assert "perception_search/evaluate/class_data/templates.toml" in names
    assert "perception_search/py.typed" in names
    assert any(name.endswith("licenses/NOTICE") for name in names)
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"perception_search"}
    assert installed.wheel.stat().st_size < 3_000_000


@pytest.mark.slow
def test_every_command_helps_and_recipes_are_found(installed, tmp_path):
    said = installed("-c", "import perception_search; print(perception_search.__file__)")
    assert said.stdout.startswith(str(installed.site))
    names = [command.name or command.callback.__name__ for command in cli.app.registered_commands]
    done = installed("-c", HELP_OF_ALL, *names)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Usage: perception-search ") == len(names)
    collection = make(tmp_path / "c.ps", 50)
    done = installed("-m", "perception_search", "index", collection, "--recipe", "hnsw")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("hnsw (HNSW32): 50 rows")
