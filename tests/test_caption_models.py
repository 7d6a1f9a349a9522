"""Captions by models: a tiny Perception LM of the real classes, with weights by chance."""

import json
import os
import subprocess
import sys

import pytest
from fakes import ColourEncoder
from media_folder import colour, write_pictures, write_video
from plm_folder import make_plm

from perception_search import Collection
from perception_search.commands.captions import PROMPT
from perception_search.plm import LICENCE, PerceptionLM


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A collection of a picture and a video, and the folder of a model."""
    folder = tmp_path_factory.mktemp("plm")
    make_plm(folder / "model")
    media = write_pictures(folder / "media", 1)
    write_video(media / "clip.mp4", [colour((200, 30, 30), (64, 64))] * 16)
    photos = Collection.create(folder / "photos.ps", encoder=ColourEncoder())
    photos.ingest(media)
    return photos.path, folder / "model", media


def test_without_acceptance_the_licence_is_named_and_nothing_is_imported(made, tmp_path):
    path, model, _ = made
    code = (
        "import sys; from perception_search import cli\n"
        "try: cli.main()\n"
        "except SystemExit as end: print(end.code, 'transformers' in sys.modules)"
    )
    for name in (model, "Perception-LM-1B"):
        done = subprocess.run(
            [sys.executable, "-c", code, "caption", str(path), "--model", str(name)],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"PERCEPTION_SEARCH_CACHE": str(tmp_path)},
        )
        assert done.stdout == "1 False\n"
        assert LICENCE in done.stderr
        assert "noncommercial research only" in done.stderr
        assert "--accept-license" in done.stderr


def test_perception_lm_captions_a_collection_under_its_licence(made, run, tmp_path, monkeypatch):
    monkeypatch.setenv("PERCEPTION_SEARCH_CACHE", str(tmp_path))
    monkeypatch.setitem(PerceptionLM.ask.__kwdefaults__, "max_new_tokens", 8)  # it never ends
    path, model, media = made
    command = ("caption", path, "--model", model, "--dtype", "float32")
    code, out, err = run(*command, "--accept-license", "--json", "--where", "kind = 'image'")
    *lines, counts = map(json.loads, out.splitlines())
    assert (code, counts["captioned"]) == (0, 1), err
    writer = PerceptionLM(str(model), dtype="float32")
    for line in lines:
        assert line["caption"] == writer.caption(line["path"], PROMPT)
    writer.close()
    code, out, _ = run(*command)
    assert (code, out) == (0, "1 captioned, 1 unchanged\n"), "accepted once is enough"
    assert f"licence: {LICENCE}" in run("info", path)[1]
    hits = Collection.open(path, encoder=ColourEncoder()).search("red", k=3)
    assert {hit.caption_licence for hit in hits} == {LICENCE}
    assert {hit.caption_model for hit in hits} == {str(model)}
    assert any(hit.kind == "video" and hit.caption for hit in hits)
    assert {hit.path.is_relative_to(media) for hit in hits} == {True}
