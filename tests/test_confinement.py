"""What a decode worker cannot do any more, tried by one that does as it is told."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import confined_worker
import pytest
from media_files import gradient, number_of, write_video

from perception_search import confinement, decode_messages
from perception_search.decode import FrameSpec, MediaReader, Sampling
from perception_search.errors import MediaError, MissingExtra
from perception_search.export.cutting import Cutter

if sys.platform != "linux":
    pytest.skip("only Linux confines its processes", allow_module_level=True)

SPEC = FrameSpec(64, 96)
NOBODY = 65534

NETWORK = ("connect", "listen", "send")
FILES = (
    "create", "make_folder", "make_symlink", "make_link", "make_pipe", "rename", "overwrite",
    "truncate", "execute",
)  # fmt: skip
SCOPES = ("connect_abstract", "signal_parent")
LAST = "delete"


@pytest.fixture(scope="module")
def folder():
    """A folder that everybody may read and write, with a picture, a video and a victim."""
    folder = Path(tempfile.mkdtemp(prefix="confined-"))
    folder.chmod(0o777)
    gradient(60, 40).save(folder / "a.png")
    write_video(folder / "a.mp4", 100)
    (folder / "victim").write_bytes(b"precious")
    for path in folder.iterdir():
        path.chmod(0o666)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def listeners():
    """Who listens on this machine: a TCP port, a UDP port, a name that is no file."""
    name = f"perception-search-{os.getpid()}"
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.socket(socket.AF_UNIX) as unix,
    ):
        udp.bind(("127.0.0.1", 0))
        unix.bind("\0" + name)
        unix.listen()
        yield {
            "connect": f"{tcp.getsockname()[1]},",
            "send": f"{udp.getsockname()[1]},",
            "connect_abstract": f",{name}",
        }


def taken_over(**environment):
    """A reader whose worker is `confined_worker`, with these variables in its environment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        for name, value in environment.items():
            patch.setenv(name, str(value))
        reader = MediaReader(time_limit_seconds=20)
        reader._options = replace(reader._options, program="confined_worker")
        reader._ready()
    return reader


@pytest.fixture(scope="module", params=["this user", "nobody"])
def reader(request):
    if request.param == "nobody" and os.geteuid() != 0:
        pytest.skip("only root can become another user")
    uid = NOBODY if request.param == "nobody" else 0
    with taken_over(WORKER_UID=uid) as reader:
        yield reader


def attempt(reader, folder, name, target):
    """The error of an attempt in the worker; None when it succeeds."""
    worker = reader._ready()
    request = {"do": "attempt", "path": str(folder / "a.png"), "name": name, "target": target}
    worker.ask(decode_messages.packed(request))
    return worker.answer(20).header["error"]


def need(reader, what):
    for refused in reader._ready().not_granted:
        if what in refused:
            pytest.skip(refused)


@pytest.mark.parametrize("name", [*NETWORK, *FILES, *SCOPES, "execute_from_memory", LAST])
def test_the_attempts_succeed_without_confinement(folder, listeners, name):
    with tempfile.TemporaryDirectory() as fresh:
        (Path(fresh) / "victim").write_bytes(b"precious")
        assert confined_worker.attempt(name, listeners.get(name, fresh)) is None


@pytest.mark.parametrize("name", NETWORK)
def test_a_worker_reaches_no_network(reader, folder, listeners, name):
    need(reader, "network namespace")
    error = attempt(reader, folder, name, listeners.get(name, str(folder)))
    assert error in ("EACCES", "ENETUNREACH", "EADDRNOTAVAIL")


@pytest.mark.parametrize("name", [*FILES, LAST])
def test_a_worker_changes_no_file_and_runs_no_program(reader, folder, name):
    need(reader, "Landlock")
    before = sorted(folder.iterdir())
    assert attempt(reader, folder, name, str(folder)) in ("EACCES", "EXDEV")
    assert sorted(folder.iterdir()) == before
    assert (folder / "victim").read_bytes() == b"precious"


@pytest.mark.parametrize("name", SCOPES)
def test_a_worker_reaches_no_other_process(reader, folder, listeners, name):
    need(reader, "Landlock")
    if landlock_version() < 6:
        pytest.skip("this kernel's Landlock knows no scopes")
    error = attempt(reader, folder, name, listeners.get(name, ""))
    assert error in ("EACCES", "EPERM", "ECONNREFUSED")


def test_a_worker_runs_no_program_from_memory_and_becomes_nobody_else(reader, folder):
    assert attempt(reader, folder, "execute_from_memory", "") in ("EFBIG", "EACCES")
    assert attempt(reader, folder, "become_root", "") in ("EPERM", "EINVAL")


def test_a_worker_still_reads_and_starts_threads(reader, folder):
    assert attempt(reader, folder, "read", str(folder)) is None
    assert attempt(reader, folder, "start_threads", "") is None
    item, _ = reader.decode(folder / "a.png", SPEC)
    assert (item.width, item.height) == (60, 40)
    _, frames = reader.decode(folder / "a.mp4", SPEC, Sampling(2.0, 8))
    assert [number_of(p) for p in frames.pixels[frames.on_grid]] == [0, 12, 25, 37, 50, 62, 75, 87]
    assert reader.thumbnail(folder / "a.mp4", 1.0, 32)[:2] == b"\xff\xd8"


def test_a_worker_of_root_reads_the_files_of_others(folder):
    if os.geteuid() != 0:
        pytest.skip("root alone may read the files of others")
    private = folder / "private"
    private.mkdir()
    shutil.copy(folder / "a.png", private / "a.png")
    for path, mode in ((private / "a.png", 0o600), (private, 0o700)):
        path.chmod(mode)
        os.chown(path, 1234, 1234)
    with MediaReader() as reader:
        assert reader.decode(private / "a.png", SPEC)[0].width == 60
        assert "execute" in reader._ready().impossible or reader._ready().not_granted


def test_a_worker_says_what_is_impossible(reader):
    worker = reader._ready()
    if worker.not_granted:
        pytest.skip(", ".join(worker.not_granted))
    assert worker.impossible == tuple(confinement.WHAT_MUST_FAIL)


def test_limits_of_a_worker_are_low(reader):
    text = Path(f"/proc/{reader._ready()._process.pid}/limits").read_text()
    limits = {line[:26].strip(): line[26:].split()[:2] for line in text.splitlines()[1:]}
    assert limits["Max file size"] == ["0", "0"]
    assert limits["Max core file size"] == ["0", "0"]
    assert limits["Max open files"] == ["128", "128"]
    assert limits["Max data size"][0].isdigit()


def test_processor_time_is_counted_for_each_file(reader, folder):
    reader.decode(folder / "a.png", SPEC)
    text = Path(f"/proc/{reader._ready()._process.pid}/limits").read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("Max cpu time")]
    assert 24 * 3600 <= int(line[26:].split()[0]) < 25 * 3600


@pytest.mark.parametrize(
    ("lacking", "impossible"),
    [
        ("landlock", ("connect", "send", "execute")),
        ("namespaces", tuple(confinement.WHAT_MUST_FAIL)),
        ("seccomp", tuple(confinement.WHAT_MUST_FAIL)),
        ("landlock namespaces", ("connect", "send", "execute")),
        ("landlock seccomp", ("connect", "send")),
        ("namespaces seccomp", ("connect", "create", "execute")),
        ("landlock namespaces seccomp", ()),
    ],
)
def test_a_worker_goes_on_without_what_is_refused_and_says_so(folder, lacking, impossible):
    with taken_over(WORKER_LACKS=lacking) as reader:
        worker = reader._ready()
        said = " ".join(worker.not_granted)
        assert ("Landlock is refused" in said) == ("landlock" in lacking)
        assert ("a network namespace is refused" in said) == ("namespaces" in lacking)
        assert ("a filter of system calls is refused" in said) == ("seccomp" in lacking)
        assert reader.decode(folder / "a.mp4", SPEC)[0].kind == "video"
        if len(worker.not_granted) > len(lacking.split()):
            pytest.skip(said)
        assert worker.impossible == impossible


def landlock_version():
    libc = confinement._libc()
    return libc.syscall(confinement._LANDLOCK_CREATE_RULESET, None, 0, 1)


AS_VERSION = """
import sys
from perception_search import confinement
version = int(sys.argv[1])
for name in ("_FILE_ACCESS_SINCE", "_TCP_ACCESS_SINCE", "_SCOPES_SINCE"):
    since = getattr(confinement, name)
    setattr(confinement, name, {k: v for k, v in since.items() if k <= version})
folder = confinement.scratch_folder()
confinement._restrict_files(None)
print(*confinement.impossible(folder))
"""


@pytest.mark.parametrize("version", range(1, 8))
def test_every_version_of_landlock_is_asked_for_what_it_knows(version):
    if landlock_version() < version:
        pytest.skip(f"this kernel's Landlock is version {landlock_version()}")
    done = subprocess.run(
        [sys.executable, "-c", AS_VERSION, str(version)], capture_output=True, text=True, check=True
    )
    expected = ["create", "execute"] if version < 4 else ["connect", "create", "execute"]
    assert done.stdout.split() == expected


def test_a_later_version_of_landlock_knows_what_earlier_ones_knew():
    known = [confinement.landlock_access(confinement._FILE_ACCESS_SINCE, v) for v in range(12)]
    assert [bits.bit_count() for bits in known] == [0, 13, 14, 15, 15, *[16] * 7]


def test_torchcodec_decodes_in_a_worker(folder):
    try:
        with MediaReader(video_backend="torchcodec") as reader:
            _, frames = reader.decode(folder / "a.mp4", SPEC, Sampling(1.0, 8))
            confined = reader._ready().impossible, reader._ready().not_granted
    except MissingExtra as error:
        pytest.skip(str(error))
    assert [number_of(p) for p in frames.pixels[frames.on_grid]] == [0, 25, 50, 75]
    assert confined == (tuple(confinement.WHAT_MUST_FAIL), ()) or confined[1]


def test_a_cutter_writes_in_its_folder_only(folder, tmp_path):
    inside, outside = tmp_path / "in" / "out", tmp_path / "out"
    inside.parent.mkdir()
    for path in (inside, outside):
        path.touch()
    with Cutter(write_folder=inside.parent) as cutter:
        cutter.cut(folder / "a.mp4", inside, 1.0, 2.0, exact=False)
        refused = any("Landlock" in said for said in cutter._process.not_granted)
        with pytest.raises(MediaError) if not refused else contextlib.nullcontext():
            cutter.cut(folder / "a.mp4", outside, 1.0, 2.0, exact=False)
        assert refused or outside.stat().st_size == 0
    assert inside.stat().st_size > 1000


FILTERED = """
import ctypes, errno, os, threading
from perception_search import call_filter, confinement
confinement._drop_privileges()
call_filter.refuse_calls()
libc = ctypes.CDLL(None, use_errno=True)
column = list(call_filter._AUDIT_ARCHITECTURE).index(os.uname().machine)
for name, numbers in call_filter._REFUSED_CALLS.items():
    others = [call_filter._OTHER_ABI] if os.uname().machine == "x86_64" else []
    for number in (numbers[column], *(numbers[column] | other for other in others)):
        ctypes.set_errno(0)
        assert libc.syscall(number, -1, -1, -1, -1, -1, -1) == -1, name
        assert ctypes.get_errno() == errno.EACCES, (name, errno.errorcode[ctypes.get_errno()])
thread = threading.Thread(target=os.getpid)
thread.start()
thread.join()
with open(__import__("sys").executable, "rb") as file:
    file.read(1)
print(os.pipe()[0] > 0, open("/proc/self/status").read().count("Seccomp:\\t2"))
"""


def test_calls_that_are_filtered_fail_by_every_number_they_have():
    done = subprocess.run([sys.executable, "-c", FILTERED], capture_output=True, text=True)
    if "a filter of system calls" in done.stderr:
        pytest.skip(done.stderr.splitlines()[-1])
    assert (done.returncode, done.stdout) == (0, "True 1\n"), done.stderr
