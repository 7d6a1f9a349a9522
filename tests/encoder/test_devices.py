"""Several devices, a process each: who gets what, in which order, and how it ends."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from media_folder import write_pictures
from synthetic import T16

from perception_search import Collection, cli
from perception_search.encoder import PerceptionEncoder, StarterEncoder, device_process
from perception_search.encoder.device import choose_devices
from perception_search.encoder.device_process import encode_on_devices
from perception_search.errors import EncoderError

NAME = T16.name


def batches_of(*lengths, side=8):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (length, 3, side, side), np.uint8) for length in lengths]


def is_gone(pid):
    """Whether a process has ended, within some seconds; one that was not waited for has, too."""
    for _ in range(1000):
        try:
            if "Z" in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]:
                return True
        except OSError:
            return True
        time.sleep(0.01)
    return False


# Names


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("cpu", ["cpu"]),
        ("cpu,cpu", ["cpu", "cpu"]),
        ("cuda:2, cuda:0", ["cuda:2", "cuda:0"]),
        ("cuda:*", ["cuda:0", "cuda:1", "cuda:2"]),
        ("cpu,cuda:1", ["cpu", "cuda:1"]),
    ],
)
def test_several_devices_have_commas_between(names, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    encoder = PerceptionEncoder(NAME, device=names, dtype="float32")
    assert list(map(str, encoder.devices)) == expected
    assert str(encoder.device) == expected[0]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("cuda:0,cuda", r"device='cuda:0,cuda'; several devices are cpu or cuda:<n> with commas"),
        ("auto,cpu", r"several devices are cpu or cuda:<n> .*, and cuda:\* is every GPU"),
        ("cpu,", "several devices are"),
        ("cpu,mps", "several devices are"),
        ("cuda:x", "device='cuda:x'; one of auto, cpu, cuda, cuda:<n>, mps"),
        ("", "device=''; one of auto"),
    ],
)
def test_other_names_are_refused(names, message):
    with pytest.raises(ValueError, match=message):
        PerceptionEncoder(NAME, device=names)


@pytest.mark.parametrize("names", ["cuda:1", "cuda:0,cuda:1", "cuda:7"])
def test_devices_that_are_not_there_are_told(names, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match=r"device='cuda:[17]'; torch .* sees no such device on"):
        choose_devices(names)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for missing in ("cuda", "cuda:*"):
        with pytest.raises(ValueError, match=r"device='cuda(:0)?'; torch .* sees no such device"):
            choose_devices(missing)


def test_the_starter_takes_one_device():
    with pytest.raises(ValueError, match="device='cpu,cpu'; one of auto, cpu"):
        StarterEncoder(device="cpu,cpu")


# Sharing out, with processes that compute nothing


@pytest.fixture
def shared(monkeypatch):
    """Embeddings of batches by processes that do what they are told."""
    monkeypatch.setattr(device_process, "_PROGRAM", "fake_device_worker")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))

    def shared(batches, *does):
        names = ["cpu", "cuda:1", "cuda:2"]
        starts = [
            {"num_threads": 1, "encoder": {"device": name, "does": what}}
            for name, what in zip(names, does, strict=False)
        ]
        return encode_on_devices(starts, batches, 2)

    return shared


def test_embeddings_come_in_the_order_of_the_batches(shared):
    batches = batches_of(3, 0, 1, 7, 2, 2, 0, 5, 1, 1, 4, 6, 1, 3, 0)
    given = list(shared(batches, ["answer"], ["answer"], ["answer"]))
    for embeddings, batch in zip(given, batches, strict=True):
        expected = [float(frame.astype(np.int64).sum()) for frame in batch]
        assert embeddings.shape == (len(batch), 2)
        assert embeddings[:, 0].tolist() == expected
    assert len({pid for embeddings in given for pid in embeddings[:, 1]}) == 3


def test_no_batch_starts_no_process(shared, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", None)
    assert list(shared([], ["answer"], ["answer"])) == []
    assert [len(each) for each in shared(batches_of(0, 0), ["answer"])] == [0, 0]


def test_the_next_batch_goes_to_who_is_ready(shared, tmp_path):
    """One waits until the other has answered four: more than it is given at first."""
    file = str(tmp_path / "answered")
    given = list(shared(batches_of(*[1] * 12), ["wait", file], ["tell", file, 4]))
    assert len(given) == 12


def test_a_bounded_number_of_batches_is_taken_ahead(shared):
    num_taken, most = 0, 0

    def counted():
        nonlocal num_taken
        for batch in batches_of(*[1] * 40):
            num_taken += 1
            yield batch

    for num_given, _ in enumerate(shared(counted(), ["answer"], ["answer"])):
        most = max(most, num_taken - num_given)
    assert most == 2 * 3 + 1


def test_large_batches_pass_through_the_pipes(shared):
    [batch] = batches_of(64, side=300)
    for embeddings in shared([batch] * 5, ["answer"]):
        assert embeddings[:, 0].tolist() == batch.reshape(64, -1).sum(1).astype(np.float32).tolist()


@pytest.mark.parametrize(
    ("does", "message"),
    [
        (["kill", "SIGKILL"], r"its process ended with SIGKILL, out of memory\?"),
        (["kill", "SIGSEGV"], "its process ended with SIGSEGV"),
        (["exit", 3], r"its process ended with exit code 3 \(no kernel image is available\)"),
        (["fail", "OutOfMemoryError: CUDA out of memory."], "OutOfMemoryError: CUDA out of .*"),
    ],
)
def test_who_ends_or_fails_is_named_with_the_reason(shared, does, message):
    with pytest.raises(EncoderError, match=f"^cuda:1 cannot encode: {message}$"):
        list(shared(batches_of(*[2] * 9), ["answer"], does))


def test_closing_ends_the_processes(shared):
    stream = shared(batches_of(*[1] * 40), ["answer"], ["answer"])
    pids = {int(next(stream)[0, 1]) for _ in range(6)}
    stream.close()
    assert pids
    assert all(is_gone(pid) for pid in pids)
    assert not [each.name for each in threading.enumerate() if each.name.startswith("encode_")]


def test_closing_waits_for_nobody(shared, tmp_path):
    file = tmp_path / "answered"

    def then_hanging():
        yield from batches_of(1, 1, 1, 1)
        while not file.exists():
            time.sleep(0.01)
        while True:
            yield np.full((1, 3, 8, 8), 255, np.uint8)

    stream = shared(then_hanging(), ["tell", str(file), 4])
    pids = {int(next(stream)[0, 1]) for _ in range(2)}
    stream.close()
    assert all(is_gone(pid) for pid in pids)


def test_an_error_among_the_batches_ends_the_processes(shared):
    def broken():
        yield from batches_of(1, 1)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(shared(broken(), ["answer"]))


def test_other_arrays_than_frames_are_refused(shared):
    with pytest.raises(ValueError, match="pixels are float32"):
        list(shared([np.zeros((1, 3, 8, 8), np.float32)], ["answer"]))


# With real ones


@pytest.fixture(scope="module")
def two(t16_files):
    return PerceptionEncoder(
        NAME, weights=t16_files["safetensors"], device="cpu,cpu", dtype="float32", batch_size=4
    )


def test_two_devices_give_what_one_gives(t16_files, two):
    one = PerceptionEncoder(
        NAME, weights=t16_files["safetensors"], device="cpu", dtype="float32", batch_size=4
    )
    batches = batches_of(2, 0, 5, 1, 4, 4, side=32)
    for embeddings, batch in zip(two.encode_stream(batches), batches, strict=True):
        np.testing.assert_allclose(embeddings, one.encode_frames(batch), rtol=0, atol=1e-5)
    assert two.provenance["device"] == "cpu, cpu"
    assert two.identity == one.identity
    np.testing.assert_array_equal(two.encode_text(["a cat"]), one.encode_text(["a cat"]))


def test_a_worker_says_what_it_cannot_encode(two):
    with pytest.raises(EncoderError, match=r"^cpu cannot encode: .*multiples of.* 16"):
        list(two.encode_stream(batches_of(1, 1, side=30)))


ENDLESS = """
import sys
import numpy as np
from perception_search.encoder import PerceptionEncoder
encoder = PerceptionEncoder(sys.argv[1], weights=sys.argv[2], device="cpu,cpu", batch_size=1)
def batches():
    while True:
        yield np.zeros((1, 3, 32, 32), np.uint8)
for embeddings in encoder.encode_stream(batches()):
    print("given", flush=True)
"""


@pytest.mark.skipif(not Path("/proc").exists(), reason="processes are looked up in /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_processes_end_with_their_parent(t16_files, how):
    """SIGINT goes to the whole group, as a terminal's Ctrl-C does."""
    command = [sys.executable, "-c", ENDLESS, NAME, str(t16_files["safetensors"])]
    parent = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
        # what a shell starts in the background is told to ignore Ctrl-C, and so are its children
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert parent.stdout.readline() == "given\n"
    children = Path(f"/proc/{parent.pid}/task").glob("*/children")
    pids = [int(pid) for file in children for pid in file.read_text().split()]
    assert len(pids) == 2
    if how == signal.SIGINT:
        os.killpg(parent.pid, how)
    else:
        parent.kill()
    _, said = parent.communicate(timeout=60)
    assert all(is_gone(pid) for pid in pids)
    assert said.count("Traceback") == (how == signal.SIGINT), said
    if how == signal.SIGINT:
        assert said.rstrip().endswith("KeyboardInterrupt")


def test_an_ingest_on_two_devices_stores_the_rows_of_one(t16_files, tmp_path, monkeypatch, capsys):
    media = write_pictures(tmp_path / "media", 6)
    rows = {}
    for device in ("cpu", "cpu,cpu"):
        path = tmp_path / f"{device}.ps"
        options = {"weights": t16_files["safetensors"], "dtype": "float32"}
        Collection.create(path, model=NAME, **options)
        arguments = ["ingest", path, media, "--device", device, "--dtype", "float32"]
        monkeypatch.setattr(sys, "argv", ["perception-search", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert not ended.value.code, capsys.readouterr().err
        collection = Collection.open(path)
        snapshot = collection.snapshot
        assert collection.info()["provenance"][0]["device"] == device.replace(",", ", ")
        rows[device] = {
            content_hash: (snapshot.rows.embeddings(np.array([row]))[0], snapshot.rows.norm[row])
            for row, content_hash in enumerate(snapshot.rows.content_hash.to_pylist())
        }
    one, two = rows["cpu"], rows["cpu,cpu"]
    assert len(one) == 6
    assert one.keys() == two.keys()
    for content_hash, (embedding, norm) in one.items():
        np.testing.assert_allclose(two[content_hash][0], embedding, rtol=0, atol=1e-3)
        np.testing.assert_allclose(two[content_hash][1], norm, rtol=1e-5)
