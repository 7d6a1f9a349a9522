"""Answers as `device_worker` does, with sums instead of embeddings, or misbehaves when told to.

The embedding of a frame is its sum and the process that made it. White frames make it hang.
"""

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from perception_search import decode_messages


def main():
    does, *what = decode_messages.read(0)["encoder"]["does"]
    num_answered = 0
    while (message := decode_messages.read_with_payload(0)) is not None:
        header, payload = message
        pixels = np.frombuffer(payload, np.uint8).reshape(header["shape"])
        if pixels.min() == 255:
            time.sleep(600)
        if does == "kill":
            os.kill(os.getpid(), signal.Signals[what[0]])
        if does == "exit":
            print("noise on standard output", file=sys.stderr)
            print("no kernel image is available", file=sys.stderr)
            sys.exit(what[0])
        if does == "fail":
            decode_messages.write(1, {"say": "failed", "reason": what[0]})
            return
        if does == "wait":  # for another to have answered
            while not Path(what[0]).exists():
                time.sleep(0.01)
        sums = pixels.reshape(len(pixels), -1).sum(axis=1)
        embeddings = np.stack([sums, np.full(len(pixels), os.getpid())], axis=1)
        embeddings = embeddings.astype(np.float32)
        decode_messages.write(1, {"say": "embeddings", "shape": embeddings.shape}, embeddings.data)
        num_answered += 1
        if does == "tell" and num_answered == what[1]:
            Path(what[0]).touch()


if __name__ == "__main__":
    main()
