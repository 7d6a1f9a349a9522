"""What a child process of this package starts with, and what ended it; knows no work."""

import os
import signal
import site
from pathlib import Path


def child_environment() -> dict[str, str]:
    """The child's environment: this very package, one thread for every library.

    Start it with `-P`, which keeps the current folder, and a `random.py` in it, out.
    """
    environment = dict(os.environ)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        environment[name] = "1"
    home = str(Path(__file__).resolve().parents[1])  # with -P a checkout must be named
    if home not in [*site.getsitepackages(), site.getusersitepackages()]:
        others = environment.get("PYTHONPATH")
        environment["PYTHONPATH"] = home + (os.pathsep + others if others else "")
    return environment


def signal_name(number: int) -> str:
    """`SIGKILL` for 9; a number that has no name here is `signal <number>`."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
