"""Many files: found once, never opened twice, in few files and little memory.

2,000 pictures and 50 videos; PERCEPTION_SEARCH_SCALE=full makes it 50,000 and 500.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from media_folder import write_pictures, write_videos

from perception_search.snapshot import Snapshot

FULL = os.environ.get("PERCEPTION_SEARCH_SCALE") == "full"
NUM_PICTURES, NUM_VIDEOS = (50_000, 500) if FULL else (2000, 50)

RUN = """
import json, os, resource, sys, time
from fakes import ColourEncoder
from perception_search import Collection

opened, started = [], []
def watch(event, args):
    if event == "open" and isinstance(args[0], str) and "/media/" in args[0]:
        opened.append(args[0])
    if event == "subprocess.Popen":
        started.append(str(args[0]))
def peak_mebibytes():
    # not ru_maxrss, which a process inherits from the one that started it
    if os.path.exists("/proc/self/status"):
        lines = open("/proc/self/status").read().splitlines()
        [line] = [line for line in lines if line.startswith("VmHWM:")]
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
sys.addaudithook(watch)
path, media = sys.argv[1:]
encoder = ColourEncoder(delay_seconds=0.001)
start = time.monotonic()
try:
    photos = Collection.create(path, encoder=encoder)
except Exception:
    photos = Collection.open(path, encoder=encoder)
report = photos.ingest(media)
print(json.dumps({
    "counts": report.counts(),
    "seconds": time.monotonic() - start,
    "opened": len(opened), "started": len(started),
    "mebibytes": peak_mebibytes(),
    "failed": [f"{f.path}: {f.reason}" for f in report.failed[:5]],
}))
"""


def run(collection, media):
    command = [sys.executable, "-c", RUN, str(collection), str(media)]
    where = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(command, capture_output=True, text=True, env=where, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.timeout(7200 if FULL else 300)
def test_many_files_are_found_once_and_never_opened_twice(tmp_path):
    media = tmp_path / "media"
    write_pictures(media / "p", NUM_PICTURES)
    write_videos(media / "v", NUM_VIDEOS)
    collection = tmp_path / "photos.ps"
    first = run(collection, media)
    print("first run", first)
    total = NUM_PICTURES + NUM_VIDEOS
    assert first["counts"]["ingested"] == total, first["failed"]
    second = run(collection, media)
    print("second run", second)
    assert second["counts"] == {**dict.fromkeys(first["counts"], 0), "unchanged": total}
    assert second["opened"] == 0
    assert second["started"] == 0, "no decoding process was needed"
    assert second["mebibytes"] <= 1024
    snapshot = Snapshot.open(collection)
    assert len(snapshot.manifest.files) < 20
    assert snapshot.live_items.num_rows == total
    assert len(snapshot.rows) == NUM_PICTURES + 2 * NUM_VIDEOS
