"""Broken, odd and hostile files by the hundred: each has one outcome, none stops the others."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import data
import pytest

from perception_search import Collection


def tree_bytes(pid):
    """Resident bytes of a process and all below it, as Linux counts them."""
    total = 0
    for task in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((task / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if int(task.name) == pid or parent == pid:
                pages = int((task / "statm").read_text().split()[1])
                total += pages * os.sysconf("SC_PAGE_SIZE")
        except (OSError, ValueError, IndexError):
            continue
    return total


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="counts memory by /proc")
def test_everything_broken_is_survived_and_not_opened_twice(tmp_path):
    folder = data.folder("broken")
    collection = tmp_path / "broken.ps"
    command = [sys.executable, "-m", "perception_search"]
    subprocess.run([*command, "create", collection, "--model", "starter"], check=True)
    ingest = [*command, "ingest", collection, folder, "--json", "--exclude", "nothing"]
    child = subprocess.Popen(ingest, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    peak = 0

    def watch():
        nonlocal peak
        while child.poll() is None:
            peak = max(peak, tree_bytes(child.pid))
            time.sleep(0.05)

    watcher = threading.Thread(target=watch)
    watcher.start()
    out, err = child.communicate()
    watcher.join()
    assert child.returncode == 0, err
    assert "Traceback" not in err
    *files, counts = [json.loads(line) for line in out.splitlines()]
    print(counts, f"peak {peak / 2**20:.0f} MiB")
    assert peak <= 2 << 30
    names = [file["path"] for file in files]
    assert len(names) == len(set(names)) == sum(counts.values())
    on_disk = {str(p) for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")}
    assert set(names) == on_disk
    assert counts["ingested"] > 300

    plan = Collection.open(collection).survey(folder, exclude=["nothing"])
    assert plan.to_read == {}, "nothing is left to open"
    again = subprocess.run(
        ["strace", "-f", "-e", "trace=openat,open", "-o", tmp_path / "trace", *ingest]
        if Path("/usr/bin/strace").exists()
        else ingest,
        capture_output=True,
        text=True,
        check=False,
    )
    assert again.returncode == 0, again.stderr
    *files_again, counts_again = [json.loads(line) for line in again.stdout.splitlines()]
    assert counts_again["ingested"] == 0
    assert len(files_again) == len(files)
    before = {file["path"]: file["outcome"] for file in files}
    for file in files_again:
        was = before[file["path"]]
        assert file["outcome"] == ("unchanged" if was in ("ingested", "duplicate") else was)
    if (tmp_path / "trace").exists():
        opened = [
            line
            for line in (tmp_path / "trace").read_text(errors="replace").splitlines()
            if f'"{folder}/' in line and "O_DIRECTORY" not in line
        ]
        assert opened == []
