"""What `perception-search doctor` says of a machine."""

import json
import os
import socket
import sys

import PIL
import pytest

from perception_search import doctor
from perception_search.confinement import WHAT_MUST_FAIL

NAMES = [
    "decode workers", "decoders", "machine", "GPU", "torch", "FAISS", "extras", "cache", "hub",
]  # fmt: skip


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("PERCEPTION_SEARCH_CACHE", str(tmp_path / "cache" / "ours"))


def test_doctor_tells_programs_each_thing_with_facts(run, tmp_path):
    code, out, _ = run("doctor", "--json")
    found = {each["name"]: each for each in map(json.loads, out.splitlines())}
    assert (code, list(found)) == (0, NAMES)
    assert all(each["is_well"] and each["says"] for each in found.values())
    workers = found["decode workers"]
    assert sorted(workers["impossible"] + workers["possible"]) == sorted(WHAT_MUST_FAIL)
    assert found["decoders"]["pillow"] == PIL.__version__
    assert (
        found["machine"]["num_cores"] == len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count()
    )
    assert found["cache"]["folder"] == str(tmp_path / "cache" / "ours")
    assert not (tmp_path / "cache").exists()  # it was looked at, and not made


def test_doctor_says_a_line_of_each_thing_and_exits_1_where_the_cache_cannot_be_written(
    run, tmp_path, monkeypatch
):
    (tmp_path / "file").touch()
    monkeypatch.setenv("PERCEPTION_SEARCH_CACHE", str(tmp_path / "file" / "inner"))
    looked = {name: doctor._THINGS[name] for name in ("decode workers", "machine", "cache")}
    monkeypatch.setattr(doctor, "_THINGS", looked)
    code, out, _ = run("doctor")
    lines = out.splitlines()
    assert code == 1
    assert [line[:14].strip() for line in lines] == list(looked)
    assert "cannot be written; name another folder in PERCEPTION_SEARCH_CACHE" in lines[-1]


def test_a_library_that_does_not_load_is_one_finding(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert "every search is exact" in doctor._faiss("FAISS").says
    monkeypatch.setitem(sys.modules, "torch", None)
    looked = {name: look for name, look in doctor._THINGS.items() if name in ("torch", "machine")}
    monkeypatch.setattr(doctor, "_THINGS", looked)
    machine, torch = doctor.examine()
    assert machine.is_well
    assert not torch.is_well
    assert torch.says.startswith("does not work: ")


def test_a_hub_that_does_not_answer_is_not_waited_for(monkeypatch):
    assert doctor._hub("hub").says == "not asked: HF_HUB_OFFLINE is set"
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr("huggingface_hub.constants.is_offline_mode", lambda: False)
    monkeypatch.setattr(doctor, "HUB_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes the call and says nothing
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        found = doctor._hub("hub")
    assert found.is_well
    assert not found.facts["answers"]
    assert "no answer within" in found.says
