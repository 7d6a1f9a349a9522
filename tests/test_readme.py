"""Every snippet and every command of the README runs."""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from media_folder import colour, write_pictures, write_video
from PIL import Image
from plm_folder import make_plm
from synthetic import T16, model_state

from perception_search.encoder.config import MODELS
from perception_search.published import MODEL_CARDS

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)( theirs)?\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
OURS = [code for language, theirs, code in BLOCKS if language == "python" and not theirs]
THEIRS = [code for language, theirs, code in BLOCKS if language == "python" and theirs]
COMMANDS = [
    line
    for language, _, code in BLOCKS
    if language == "sh"
    for line in code.splitlines()
    if line.startswith("perception-search")
]


def with_small_model(code):
    """The same with the smallest PE-Core model, whose made-up weights are quick to make."""
    return re.sub(r"PE-Core-(B-?16(-224)?|G14-448)", T16.name, code).replace(
        "PE-Spatial-B16", "PE-Spatial-T16"
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory, t16_files):
    """A person's home: pictures, a video, and the weights of one model."""
    from safetensors.torch import save_file

    home = tmp_path_factory.mktemp("home")
    write_pictures(home / "Pictures", 6)
    Image.fromarray(colour((240, 220, 160))).save(home / "Pictures" / "beach.jpg")
    Image.fromarray(colour((90, 90, 90))).save(home / "cat.png")
    write_video(home / "Pictures" / "dog.mp4", [colour((200, 30, 30), (64, 64))] * 20)
    (home / "beach.jpg").write_bytes((home / "Pictures" / "beach.jpg").read_bytes())
    (home / "captions.csv").write_text("path,caption\nbeach.jpg,waves near the harbour 2041\n")
    (home / "weights").mkdir()
    os.link(t16_files["safetensors"], home / "weights" / f"{T16.name}.safetensors")
    spatial = MODELS["PE-Spatial-T16-512"]
    save_file(model_state(spatial), home / "weights" / f"{spatial.name}.safetensors")
    make_plm(home / "weights" / "Perception-LM-1B")
    (home / "photo.jpg").write_bytes((home / "beach.jpg").read_bytes())
    from perception_search import Collection

    Collection.create(home / "photos.ps", model=T16.name, weights=home / "weights")
    return home


def variables(home):
    """The environment of that person."""
    return {
        "HOME": str(home),
        "HF_HUB_OFFLINE": "1",
        "PERCEPTION_SEARCH_WEIGHTS": str(home / "weights"),
        "PERCEPTION_SEARCH_CACHE": str(home / "cache"),
        "PERCEPTION_SEARCH_ACCEPT_LICENSE": "1",
    }


def in_a_process(command, home):
    environment = os.environ | variables(home)
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=home, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def serves_until_it_is_stopped(words, home):
    words = [*[word for word in words[1:] if word != "--open"], "--port", "0"]
    command = [sys.executable, "-m", "perception_search", *words]
    environment = os.environ | {"PERCEPTION_SEARCH_WEIGHTS": str(home / "weights")}
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, cwd=home, env=environment
    ) as process:
        assert any(line.startswith("Search at http://127.0.0.1:") for line in process.stderr)
        process.terminate()


def test_the_readme_opens_with_the_two_commands():
    first = BLOCKS[0][2].splitlines()
    assert [line.split("#")[0].strip() for line in first] == ["make demo", "make test"]
    assert README.splitlines()[2] == "```sh"


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(OURS)))
def test_our_snippets_run(home, number):
    in_a_process([sys.executable, "-c", with_small_model(OURS[number])], home)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(COMMANDS)))
def test_the_commands_run_in_order(home, number, run, monkeypatch):
    words = shlex.split(with_small_model(COMMANDS[number]))
    words = [re.sub("^~", str(home), word) for word in words]
    if words[1] == "app":
        serves_until_it_is_stopped(words, home)
        return
    if words[1] == "export-onnx":
        pytest.skip("half a minute: encoder/test_onnx.py runs it")
    if words[1] == "plan":
        words += ["--model", T16.name]
    monkeypatch.chdir(home)
    for name, value in variables(home).items():
        monkeypatch.setenv(name, value)
    code, _, err = run(*words[1:])
    assert code == 0, err


@pytest.mark.parametrize("number", range(len(THEIRS)))
def test_their_snippets_are_python_and_run_where_they_are_installed(home, number):
    code = THEIRS[number]
    compile(code, "README.md", "exec")
    package = re.search(r"^import (\w+)", code, re.MULTILINE)[1]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed: its snippet was compiled, not run")
    pytest.skip(f"{package} is installed, but its weights must come from the hub")


def test_the_table_of_models_is_what_the_command_prints(home):
    assert in_a_process([sys.executable, "-m", "perception_search", "models"], home) in README


def test_the_published_scores_are_those_that_plan_prints():
    for model, scores in MODEL_CARDS.rows.items():
        short = model.removeprefix("PE-Core-")
        assert f"| {short} | {' | '.join(map(str, scores))} |\n" in README


def test_every_link_to_a_file_leads_somewhere():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    local = [link for link in links if "://" not in link]
    assert local
    for link in local:
        assert (Path(__file__).parent.parent / link).exists(), link


def test_nothing_is_left_to_be_filled_in():
    assert not re.search(r"@[A-Z]+@", README)


def test_make_only_wraps_what_a_person_could_type():
    done = subprocess.run(
        ["make", "--dry-run", "--always-make", "demo", "test", "check", "MODEL=m", "MEDIA=~/p"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent.parent,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "perception-search demo --model m --media ~/p" in done.stdout
    assert "-m pytest" in done.stdout
    torch = done.stdout.index("--requirement constraints.txt")
    assert torch < done.stdout.index("--editable"), "torch comes first"
