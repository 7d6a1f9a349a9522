"""The pool: every file one outcome, whatever happens to workers, files and the caller."""

import collections
import contextlib
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import data
import numpy as np
import pytest
from media_files import encoded, gradient, grid_slowly, number_of, write_video
from PIL import Image

import perception_search
from perception_search import decode_events, decode_pool, decode_process, media
from perception_search.decode import (
    Decoded,
    DecodePool,
    Failed,
    ForgetUniform,
    FrameSpec,
    Known,
    Restarted,
    Sampling,
    decoder_version,
)
from perception_search.errors import MissingExtra, PerceptionSearchError

SPEC = FrameSpec(64, 96)
HOME = str(Path(perception_search.__file__).parents[1])


@pytest.fixture
def started(monkeypatch):
    """Every worker process that is started, in order."""
    processes = []
    real = subprocess.Popen

    def popen(*args, **kwargs):
        processes.append(real(*args, **kwargs))
        return processes[-1]

    monkeypatch.setattr(decode_process.subprocess, "Popen", popen)
    return processes


def picture(path, number=0):
    image = gradient(40, 30)
    image.putpixel((0, 0), (number % 256, number // 256, 7))
    path.write_bytes(encoded(image, "PNG"))
    return path


def pictures(folder, count):
    return [picture(folder / f"{number:05}.png", number) for number in range(count)]


def final(events):
    """The last event of each file, checked to be the only final one."""
    last = {}
    for event in events:
        assert event.path not in last, "something came after the end of the file"
        if isinstance(event, Failed | Known) or (isinstance(event, Decoded) and event.last):
            last[event.path] = event
    return last


def outcomes(events):
    return {
        path.name: event.outcome if isinstance(event, Failed) else type(event).__name__
        for path, event in final(events).items()
    }


def frames_of(events, path):
    """The frames of a file that count in the end."""
    frames = []
    for event in events:
        if event.path != path:
            continue
        if isinstance(event, Restarted):
            frames = []
        elif isinstance(event, Decoded):
            frames.append(event.frames)
    return [np.concatenate(part) for part in zip(*(vars(f).values() for f in frames), strict=True)]


def are_gone(processes):
    """Whether processes ended and were waited for: no zombie, no orphan."""
    return all(process.returncode is not None for process in processes)


def test_every_file_has_one_outcome(tmp_path):
    paths = pictures(tmp_path, 20)
    paths.append(write_video(tmp_path / "v.mp4", 60))
    for name, content in (("t.txt", b"text"), ("b.jpg", b"text"), ("l.mp4", b"#EXTM3U\n")):
        paths.append(tmp_path / name)
        paths[-1].write_bytes(content)
    paths.append(tmp_path / "nowhere.png")
    with DecodePool(SPEC, num_workers=2) as pool:
        result = outcomes(pool.decode(paths))
    expected = {path.name: "Decoded" for path in paths}
    expected |= {"t.txt": "skipped", "b.jpg": "unreadable", "l.mp4": "playlist"}
    expected |= {"nowhere.png": "unreadable"}
    assert result == expected


def test_the_events_of_a_file_come_in_order(tmp_path):
    paths = [write_video(tmp_path / f"{i}.mp4", 100, first=200 * i) for i in range(3)]
    with DecodePool(SPEC, Sampling(10.0, 8), num_workers=3) as pool:
        events = list(pool.decode(paths))
    for number, path in enumerate(paths):
        own = [event for event in events if event.path == path]
        assert [event.last for event in own] == [False] * (len(own) - 1) + [True]
        assert [event.item is None for event in own] == [True] * (len(own) - 1) + [False]
        pixels, pts_seconds, on_grid, num_uniform = frames_of(events, path)
        times = [i / 25 for i in range(100)]
        grid = grid_slowly(times, 4.0, 10.0)
        assert [number_of(p) - 200 * number for p in pixels[on_grid]] == grid
        assert pts_seconds[on_grid].tolist() == [j / 10 for j in range(40)]
        assert num_uniform.sum() == 8


def test_content_that_is_not_claimed_is_not_decoded(tmp_path):
    paths = pictures(tmp_path, 10)
    copy = tmp_path / "copy.png"
    copy.write_bytes(paths[0].read_bytes())
    seen = {}
    lock = threading.Lock()

    def claim(path, content_hash, kind):
        assert kind == "image"
        with lock:
            return seen.setdefault(content_hash, path) == path

    with DecodePool(SPEC, num_workers=2) as pool:
        last = final(pool.decode([*paths, copy], claim))
    known = [event for event in last.values() if isinstance(event, Known)]
    assert len(last) == 11
    assert [event.path in (paths[0], copy) for event in known] == [True]
    assert (known[0].kind, known[0].size_bytes) == ("image", copy.stat().st_size)
    assert len(seen) == 10


def test_content_that_is_not_wanted_is_not_decoded_at_a_second_try_either(tmp_path, started):
    path = picture(tmp_path / "a.png")
    asked = []

    def claim(*_):
        asked.append(1)
        started[-1].kill()
        started[-1].wait()
        return False

    with DecodePool(SPEC, num_workers=1) as pool:
        events = list(pool.decode([path], claim))
    assert isinstance(events[-1], Known)
    assert len(asked) == 1


def test_a_failure_after_the_claim_gives_back_the_hash(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(gradient(40, 30), "PNG")[:100])
    claimed = []

    def claim(_, content_hash, __):
        claimed.append(content_hash)
        return True

    with DecodePool(SPEC, num_workers=1) as pool:
        [event] = pool.decode([path], claim)
    assert (event.outcome, event.content_hash, event.kind) == ("unreadable", claimed[0], "image")
    assert event.size_bytes == 100


@pytest.mark.parametrize("kill", [signal.SIGSEGV, signal.SIGKILL, signal.SIGABRT])
def test_a_crash_costs_a_second_try(tmp_path, started, kill):
    paths = pictures(tmp_path, 4)

    def claim(path, *_):
        if path == paths[1]:
            started[-1].send_signal(kill)
        return True

    with DecodePool(SPEC, num_workers=1) as pool:
        events = list(pool.decode(paths, claim))
    assert outcomes(events) == {path.name: "Decoded" for path in paths}
    assert [e.path for e in events if isinstance(e, Restarted)] == [paths[1]]
    assert final(events)[paths[1]].attempt == 2
    assert len(started) == 2
    assert are_gone(started)


@pytest.mark.parametrize(
    ("kill", "outcome"),
    [
        (signal.SIGSEGV, "crashed"),
        (signal.SIGKILL, "out_of_memory"),
        (signal.SIGSTOP, "timed_out"),
    ],
)
def test_a_file_that_kills_two_workers_is_given_up(tmp_path, started, monkeypatch, kill, outcome):
    paths = pictures(tmp_path, 5)
    real = decode_events.FileTalk._is_wanted

    def is_wanted(self, worker, header):
        if self._path == paths[2]:
            worker._process.send_signal(kill)
        return real(self, worker, header)

    monkeypatch.setattr(decode_events.FileTalk, "_is_wanted", is_wanted)
    with DecodePool(SPEC, num_workers=1, time_limit_seconds=1.0) as pool:
        events = list(pool.decode(paths))
    assert outcomes(events) == {p.name: "Decoded" for p in paths} | {paths[2].name: outcome}
    failed = final(events)[paths[2]]
    assert failed.content_hash is not None
    assert failed.reason
    assert len(started) == 3
    assert are_gone(started)


def test_what_came_before_a_crash_is_void(tmp_path, started, monkeypatch):
    path = write_video(tmp_path / "a.mp4", 150)
    real = decode_events.FileTalk._decoded

    def decoded(self, message, attempt):
        if len(started) == 1 and started[0].poll() is None:
            started[0].kill()
        return real(self, message, attempt)

    monkeypatch.setattr(decode_events.FileTalk, "_decoded", decoded)
    spec = FrameSpec(448, 448)
    with DecodePool(spec, Sampling(25.0, 8), num_workers=1) as pool:
        events = list(pool.decode([path]))
    kinds = [type(event).__name__ for event in events]
    assert "Restarted" in kinds[1:-1]
    assert kinds[0] == kinds[-1] == "Decoded"
    assert next(e.attempt for e in events if isinstance(e, Decoded)) == 1
    pixels, _, on_grid, num_uniform = frames_of(events, path)
    assert [number_of(p) for p in pixels] == list(range(150))
    assert on_grid.all()
    assert num_uniform.sum() == 8


def test_a_hang_is_ended_after_the_time_limit(tmp_path, started, monkeypatch):
    paths = pictures(tmp_path, 3)

    def claim(path, *_):
        if path == paths[0]:
            started[-1].send_signal(signal.SIGSTOP)
        return True

    began = time.monotonic()
    with DecodePool(SPEC, num_workers=1, time_limit_seconds=1.0) as pool:
        events = list(pool.decode(paths, claim))
    assert outcomes(events) == {path.name: "Decoded" for path in paths}
    assert 0.8 < time.monotonic() - began < 20, "the watchdog counts in ticks"


def test_a_slow_caller_is_no_reason_to_end_a_worker(tmp_path):
    paths = pictures(tmp_path, 4)
    with DecodePool(SPEC, num_workers=2, time_limit_seconds=0.6) as pool:
        events = []
        for event in pool.decode(paths, lambda *_: time.sleep(0.4) or True):
            time.sleep(0.8)
            events.append(event)
    assert outcomes(events) == {path.name: "Decoded" for path in paths}
    assert not any(isinstance(event, Restarted) for event in events)


def test_memory_runs_out_for_one_file_only(tmp_path):
    paths = pictures(tmp_path, 4)
    paths.insert(1, tmp_path / "large.png")
    paths[1].write_bytes(encoded(Image.new("RGB", (6000, 6000)), "PNG"))
    with DecodePool(SPEC, num_workers=1, memory_limit_bytes=64 << 20) as pool:
        result = outcomes(pool.decode(paths))
    assert result == {p.name: "Decoded" for p in paths} | {"large.png": "out_of_memory"}


def test_where_the_kernel_does_not_limit_memory_the_parent_does(tmp_path, monkeypatch, started):
    # Resident memory is watched every second: the worker is held up long enough to be seen.
    path = picture(tmp_path / "a.png")
    monkeypatch.setattr(decode_process, "KERNEL_LIMITS_MEMORY", False)
    monkeypatch.setattr(decode_process, "resident_bytes", lambda pid: 1 << 40)
    real = decode_events.FileTalk._is_wanted

    def is_wanted(self, worker, header):
        worker._process.send_signal(signal.SIGSTOP)
        return real(self, worker, header)

    monkeypatch.setattr(decode_events.FileTalk, "_is_wanted", is_wanted)
    with DecodePool(SPEC, num_workers=1) as pool:
        [event] = final(pool.decode([path])).values()
    assert event.outcome == "out_of_memory"


def test_resident_memory_is_what_the_system_says():
    from perception_search.decode_limits import resident_bytes

    if not Path("/bin/ps").exists():
        pytest.skip("there is no ps")
    assert 5e6 < resident_bytes(os.getpid()) < 1e11
    assert resident_bytes(2**22 + 5) is None


@pytest.mark.parametrize("when", ["claim", "first frames"])
def test_a_video_that_changes_while_it_is_read_is_given_up(tmp_path, monkeypatch, when):
    path = write_video(tmp_path / "a.mp4", 400)
    other = write_video(tmp_path / "b.mp4", 400, first=1000).read_bytes()
    os.utime(path, (1e9, 1e9))
    changed = []

    def change(*_):
        if not changed:
            changed.append(1)
            size = path.stat().st_size
            with path.open("r+b") as file:  # same length, and the old time is put back
                file.write(other[:size].ljust(size, b"\0"))
            os.utime(path, (1e9, 1e9))
        return True

    if when == "first frames":
        real = decode_events.FileTalk._decoded
        monkeypatch.setattr(
            decode_events.FileTalk,
            "_decoded",
            lambda self, message, attempt: change() and real(self, message, attempt),
        )
    with DecodePool(FrameSpec(448, 448), Sampling(25.0, 8), num_workers=1) as pool:
        [event] = final(pool.decode([path], change if when == "claim" else None)).values()
    assert event.outcome == "changed_during_read"


def test_a_picture_that_changes_after_it_was_hashed_is_what_was_hashed(tmp_path):
    path = picture(tmp_path / "a.png")
    with Image.open(path) as image:
        expected = np.asarray(image.resize((96, 64), Image.Resampling.BILINEAR))
    other = encoded(Image.new("RGB", (40, 30)), "PNG")
    with DecodePool(SPEC, num_workers=1) as pool:
        [event] = pool.decode([path], lambda *_: path.write_bytes(other) > 0)
    assert np.array_equal(event.frames.pixels[0], expected.transpose(2, 0, 1))


def test_an_editor_at_work_leaves_no_wrong_pixels(tmp_path):
    """A picture is rewritten all the time; what comes is always what its hash names."""
    versions = [encoded(Image.new("RGB", (40, 30), (i, i, i)), "PNG") for i in range(8)]
    by_hash = {__import__("hashlib").sha256(v).hexdigest(): i for i, v in enumerate(versions)}
    path = tmp_path / "a.png"
    path.write_bytes(versions[0])
    stop = threading.Event()

    def edit():
        while not stop.is_set():
            for version in versions:
                path.write_bytes(version)

    thread = threading.Thread(target=edit)
    thread.start()
    results = collections.Counter()
    try:
        with DecodePool(SPEC, num_workers=2) as pool:
            for event in pool.decode([path] * 200):
                if isinstance(event, Decoded):
                    value = by_hash.get(event.item.content_hash)
                    assert value is not None
                    assert (event.frames.pixels == value).all()
                results[type(event).__name__] += 1
    finally:
        stop.set()
        thread.join()
    assert results.total() == 200
    assert results["Decoded"] > 0


def test_a_recount_is_told(tmp_path):
    path = data.folder("clips") / "143_12727.mp4"  # begins between key frames
    with DecodePool(SPEC, num_workers=1) as pool:
        events = list(pool.decode([path]))
    assert [type(e) for e in events].count(ForgetUniform) == 1
    told = next(i for i, e in enumerate(events) if isinstance(e, ForgetUniform))
    after = [e.frames.num_uniform.sum() for e in events[told + 1 :] if isinstance(e, Decoded)]
    assert sum(after) == 8


def test_memory_is_bounded_when_the_caller_is_slow(tmp_path, monkeypatch):
    monkeypatch.setattr(decode_pool, "_QUEUE_BYTES", 1 << 20)
    paths = pictures(tmp_path, 60)
    claimed = []
    with DecodePool(FrameSpec(256, 256), num_workers=2) as pool:  # 196,608 bytes a frame
        events = pool.decode(paths, lambda path, *_: claimed.append(path) or True)
        next(events)
        time.sleep(2.0)
        assert len(claimed) <= 1 + (1 << 20) // 196_608 + 2 * 2
        assert len(final(events)) == 59


def test_paths_are_taken_as_they_are_needed(tmp_path, monkeypatch):
    monkeypatch.setattr(decode_pool, "_QUEUE_BYTES", 1)
    path = picture(tmp_path / "a.png")
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield path

    with DecodePool(SPEC, num_workers=2) as pool:
        events = pool.decode(endless())
        for _ in range(5):
            next(events)
        events.close()
    assert len(taken) < 30


@pytest.mark.parametrize("how", ["close", "leave", "throw", "forget"])
def test_leaving_early_ends_the_workers_at_once(tmp_path, started, how):
    paths = pictures(tmp_path, 500)
    num_threads = threading.active_count()
    pool = DecodePool(SPEC, num_workers=3)
    events = pool.decode(paths)
    next(events)
    began = time.monotonic()
    if how == "close":
        events.close()
    elif how == "leave":
        pool.close()
        assert list(events) == []
    elif how == "throw":
        with pytest.raises(KeyboardInterrupt):
            events.throw(KeyboardInterrupt)
    else:
        del events
    assert time.monotonic() - began < 3
    assert are_gone(started)
    time.sleep(1)  # the watchdog looks a few times a second whether it is still needed
    assert threading.active_count() <= num_threads


def test_a_pool_can_be_used_again(tmp_path):
    paths = pictures(tmp_path, 5)
    with DecodePool(SPEC, num_workers=2) as pool:
        for _ in range(2):
            assert len(final(pool.decode(paths))) == 5
        assert list(pool.decode([])) == []


@pytest.mark.parametrize("who", ["paths", "claim"])
def test_what_the_caller_raises_reaches_the_caller(tmp_path, started, who):
    paths = pictures(tmp_path, 5)

    def failing():
        yield paths[0]
        raise ZeroDivisionError

    def claim(*_):
        raise ZeroDivisionError

    with DecodePool(SPEC, num_workers=2) as pool, pytest.raises(ZeroDivisionError):
        list(pool.decode(failing() if who == "paths" else paths, claim if who == "claim" else None))
    assert are_gone(started)


def test_a_worker_that_cannot_start_is_told_plainly(tmp_path, monkeypatch):
    path = picture(tmp_path / "a.png")
    monkeypatch.setattr(decode_process, "child_environment", lambda: {"PYTHONPATH": str(tmp_path)})
    (tmp_path / "PIL").mkdir()
    (tmp_path / "PIL" / "__init__.py").write_text("raise ImportError('no Pillow today')")
    with (
        DecodePool(SPEC, num_workers=2) as pool,
        pytest.raises(PerceptionSearchError, match=r"does not start: .*(no Pillow|No module)"),
    ):
        list(pool.decode([path]))


def test_a_missing_backend_is_told_plainly(tmp_path, monkeypatch):
    path = picture(tmp_path / "a.png")
    real = decode_process.child_environment
    (tmp_path / "torchcodec").mkdir()
    (tmp_path / "torchcodec" / "__init__.py").write_text("raise OSError('libcudart.so.13')")

    def environment():
        return real() | {"PYTHONPATH": os.pathsep.join([str(tmp_path), HOME])}

    monkeypatch.setattr(decode_process, "child_environment", environment)
    with (
        DecodePool(SPEC, num_workers=1, video_backend="torchcodec") as pool,
        pytest.raises(MissingExtra, match=r"perception-search\[video\].*libcudart"),
    ):
        list(pool.decode([path]))


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_workers": 0},
        {"video_backend": "decord"},
        {"time_limit_seconds": 0},
        {"max_pixels": -1},
        {"memory_limit_bytes": 0},
    ],
)
def test_options_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        DecodePool(SPEC, **wrong)


@pytest.mark.parametrize(
    "nonsense",
    [
        b"\xff" * 64,
        b"\x02\0\0\0\0\0\0\0{}",
        b"\x04\0\0\0\0\0\0\0null",
        b"\x10\0\0\0\xff\xff\xff\x7f" + b'{"say":"frames"}',
        b"\x0f\0\0\0\0\0\0\0" + b'{"say":"dance"}',
        b"\x10\0\0\0\0\0\0\0" + b'{"say":"frames"}',
        b"\x14\0\0\0\0\0\0\0" + b'{"say":"identified"}',
        b"\x1e\0\0\0\0\0\0\0" + b'{"say":"identified","hash":1 }',
        b"\x0f\0\0\0\0\0\0\0" + b'{"say":"failed"}',
        b"",
    ],
)
def test_a_worker_that_lost_its_way_is_not_believed(tmp_path, monkeypatch, nonsense):
    script = tmp_path / "worker.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import os, sys
            ready = b'{{"say": "ready"}}'
            os.write(1, len(ready).to_bytes(4, "little") + bytes(4) + ready)
            os.read(0, 10)
            os.write(1, {nonsense!r})
            """
        )
    )
    real = subprocess.Popen
    monkeypatch.setattr(
        decode_process.subprocess,
        "Popen",
        lambda command, **options: real([sys.executable, str(script)], **options),
    )
    with DecodePool(SPEC, num_workers=1, time_limit_seconds=5) as pool:
        [event] = final(pool.decode([picture(tmp_path / "a.png")])).values()
    assert (event.outcome, event.content_hash) == ("crashed", None)


THREE_LINES = """
from perception_search.decode import DecodePool, FrameSpec
pool = DecodePool(FrameSpec(32, 32), num_workers=2)
print(len(list(pool.decode({paths!r}))))
"""


def test_three_lines_without_a_guard_work_beside_a_module_named_random(tmp_path):
    paths = [str(path) for path in pictures(tmp_path, 3)]
    for name in ("random", "json", "PIL", "numpy", "av"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    text = THREE_LINES.format(paths=paths).replace("from", "import sys\nsys.path.pop(0)\nfrom", 1)
    done = subprocess.run(
        [sys.executable, "-c", text],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": HOME},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("3\n", "")


def children_of(pid):
    found = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False
    )
    return [int(word) for word in found.stdout.split()]


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_workers_never_outlive_their_parent(tmp_path, how):
    path = picture(tmp_path / "a.png")
    script = f"""
        import itertools
        from pathlib import Path
        from perception_search.decode import DecodePool, FrameSpec
        with DecodePool(FrameSpec(32, 32), num_workers=3) as pool:
            for n, _ in enumerate(pool.decode(itertools.repeat(Path({str(path)!r})))):
                if n == 30:
                    print("running", flush=True)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        env=os.environ | {"PYTHONPATH": HOME},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # what a shell starts in the background is told to ignore Ctrl-C, and so are its children
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        assert process.stdout.readline() == "running\n"
        workers = children_of(process.pid)
        assert len(workers) == 3
        began = time.monotonic()
        if how == signal.SIGINT:
            os.killpg(process.pid, how)  # Ctrl-C goes to all of them
        else:
            process.send_signal(how)
        said = process.communicate(timeout=20)[1]
        while any(map(is_running, workers)) and time.monotonic() - began < 10:
            time.sleep(0.05)
        assert not any(map(is_running, workers))
        if how == signal.SIGINT:
            assert said.strip().endswith("KeyboardInterrupt")
            assert said.count("Traceback") == 1
    finally:  # it would decode the same picture until the end of time
        process.kill()
        process.communicate()


def test_the_version_names_what_decodes():
    import av
    import PIL

    assert f"pillow-{PIL.__version__}" in decoder_version()
    assert f"av-{av.__version__}" in decoder_version()


def most_memory(processes):
    """The most bytes that one of them has held since it started, of those that still run."""
    most = 0
    for process in processes:
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{process.pid}/status").read_text()
            most = max(most, int((status.partition("VmHWM:")[2].split() or ["0"])[0]) * 1024)
    return most


@pytest.mark.parametrize("num_workers", [2])
def test_every_broken_file_has_one_outcome_and_no_parent_dies(started, num_workers):
    paths = [found.path for found in media.find([data.folder("broken")], exclude=())]
    most = 0
    last = {}
    with DecodePool(SPEC, num_workers=num_workers, time_limit_seconds=30) as pool:
        for event in pool.decode(paths):
            most = max(most, most_memory(started))
            last |= final([event])
    assert set(last) == set(paths)
    counts = collections.Counter(outcomes(last.values()).values())
    assert set(counts) <= {
        *("Decoded", "unreadable", "skipped", "too_large", "unsupported", "playlist"),
        *("crashed", "timed_out", "out_of_memory"),
    }
    assert counts["Decoded"] > 250
    for event in last.values():
        if isinstance(event, Failed):
            assert event.reason.isprintable()
            assert "Traceback" not in event.reason
    assert are_gone(started)
    if sys.platform == "linux":
        assert 40 << 20 < most < 2 << 30


def test_workers_killed_at_random_lose_no_file(tmp_path, started, monkeypatch):
    monkeypatch.setattr(decode_pool, "_QUEUE_BYTES", 1 << 18)
    seed = random.randrange(1 << 32)
    print("seed", seed)
    rng = random.Random(seed)
    paths = pictures(tmp_path, 300)
    for path in paths[::10]:
        path.write_bytes(path.read_bytes()[: rng.randrange(1, 200)])
    with DecodePool(SPEC, num_workers=2) as pool:
        expected = outcomes(pool.decode(paths))
    started.clear()
    stop = threading.Event()

    def kill():
        while not stop.is_set():
            time.sleep(rng.uniform(0.3, 0.6))
            living = [process for process in list(started) if process.poll() is None]
            if living:
                rng.choice(living).send_signal(rng.choice([signal.SIGKILL, signal.SIGSEGV]))

    thread = threading.Thread(target=kill)
    with DecodePool(SPEC, num_workers=2) as pool:
        events = pool.decode(paths)
        thread.start()
        try:
            last = final(slowly(events))
        finally:
            stop.set()
            thread.join()
    assert set(last) == set(paths)
    result = outcomes(last.values())
    wrong = {name: said for name, said in result.items() if said != expected[name]}
    assert set(wrong.values()) <= {"crashed", "out_of_memory"}  # hit twice in a row
    assert len(wrong) <= 2


def slowly(events):
    for event in events:
        time.sleep(0.005)
        yield event
