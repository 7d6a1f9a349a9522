"""Ingests a folder and says what is acknowledged; may kill itself at the n-th durable operation.

python kill_child.py COLLECTION MEDIA [OPERATIONS]
"""

import os
import signal
import sys

from fakes import ColourEncoder

from perception_search import Collection, durable


def main():
    path, media = sys.argv[1:3]
    left = int(sys.argv[3]) if len(sys.argv) > 3 else None
    acknowledged = False

    def count(_operation, _path):
        nonlocal left
        if left is None or not acknowledged:
            return
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def said(files):
        nonlocal acknowledged
        for file in files:
            if file.outcome == "ingested":
                print(file.path, flush=True)
                acknowledged = True

    durable.on_operation = count
    photos = Collection.open(path, encoder=ColourEncoder(delay_seconds=0.001))
    photos.ingest(media, commit_rows=8, on_commit=said, num_workers=1)
    print("done", flush=True)


if __name__ == "__main__":
    main()
