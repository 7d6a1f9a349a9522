"""What `import perception_search` costs, in CPU seconds of a fresh process, beside its parts.

python benchmarks/bench_import.py
"""

import json
import statistics
import subprocess
import sys

STATEMENTS = {
    "nothing": "pass",
    "import perception_search": "import perception_search",
    "its Collection": "from perception_search import Collection",
    "torch, for scale": "import torch",
}
ROUNDS = 7


def cpu_seconds(statement: str) -> float:
    """User and system seconds of a process that runs `statement`."""
    code = (
        f"{statement}\nimport resource as r; u = r.getrusage(r.RUSAGE_SELF); "
        "print(u.ru_utime + u.ru_stime)"
    )
    return float(subprocess.check_output([sys.executable, "-c", code], text=True))


def main() -> None:
    seconds: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    for _ in range(ROUNDS):  # interleaved, so that a busy moment hits all alike
        for name, statement in STATEMENTS.items():
            seconds[name].append(cpu_seconds(statement))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, value in medians.items():
        print(f"{value:6.3f} CPU s  {name}")
    own = medians["import perception_search"] - medians["nothing"]
    print(
        json.dumps(
            {
                "import_cpu_seconds": round(medians["import perception_search"], 3),
                "import_cpu_seconds_beyond_python": round(own, 3),
                "python": sys.version.split()[0],
            }
        )
    )


if __name__ == "__main__":
    main()
