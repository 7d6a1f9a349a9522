"""What holds on this machine: workers, devices, libraries, memory, cache, hub; changes nothing."""

import importlib
import importlib.metadata
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from packaging.requirements import Requirement

from perception_search.assets import cache_folder, hub_answers
from perception_search.confinement import WHAT_MUST_FAIL
from perception_search.decode_limits import num_cores
from perception_search.decode_process import WorkerOptions, start_worker
from perception_search.encoder.device import choose_device, choose_dtype, described
from perception_search.errors import PerceptionSearchError
from perception_search.recipe import memory_of_machine

HUB_SECONDS = 3.0

_DISTRIBUTION = "perception-search"
_FOR_DEVELOPMENT = frozenset(("dev",))


@dataclass(frozen=True)
class Finding:
    """What was found of one thing.

    Attributes:
        name: of the thing, two words at most.
        says: what was found, one line for people.
        is_well: False where something that is always needed does not work.
        facts: the same for programs.
    """

    name: str
    says: str
    is_well: bool = True
    facts: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Everything, with `facts` among it."""
        return {"name": self.name, "is_well": self.is_well, "says": self.says, **self.facts}


def examine() -> Iterator[Finding]:
    """One finding after the other, as they are made; all take a few seconds.

    A library that cannot be loaded is a finding too.
    """
    for name, look in _THINGS.items():
        try:
            yield look(name)
        except Exception as error:  # a broken installation raises anything
            reason = " ".join(str(error).split()) or type(error).__name__
            yield Finding(name, f"does not work: {reason}", is_well=False)


def _workers(name: str) -> Finding:
    with start_worker(WorkerOptions()) as worker:
        impossible, not_granted = worker.impossible, worker.not_granted
    possible = [what for what in WHAT_MUST_FAIL if what not in impossible]
    said = []
    if impossible:
        said.append(f"cannot {_listed([WHAT_MUST_FAIL[what] for what in impossible])}")
    if possible:
        said.append(f"can {_listed([WHAT_MUST_FAIL[what] for what in possible])}")
    said += not_granted
    facts = {"impossible": impossible, "possible": possible, "not_granted": not_granted}
    return Finding(name, "; ".join(said), facts=facts)


def _gpu(name: str) -> Finding:
    import torch

    device = choose_device("auto")
    dtype = choose_dtype("auto", device)
    gpus: list[dict[str, Any]] = [
        {
            "name": torch.cuda.get_device_name(number),
            "memory_bytes": torch.cuda.get_device_properties(number).total_memory,
        }
        for number in range(torch.cuda.device_count())
    ]
    if gpus:
        says = ", ".join(f"{gpu['name']} ({_gb(gpu['memory_bytes'])})" for gpu in gpus)
    else:
        says = "Apple's (mps)" if device.type == "mps" else "none that torch sees"
    says += f"; models compute on {described(device)} in {dtype}"
    return Finding(name, says, facts={"gpus": gpus, "device": str(device), "dtype": dtype})


def _torch(name: str) -> Finding:
    import torch

    cuda = torch.version.cuda
    says = f"{torch.__version__}, " + (f"CUDA {cuda}" if cuda else "without CUDA")
    facts = {"version": torch.__version__, "cuda": cuda, "num_threads": torch.get_num_threads()}
    return Finding(name, f"{says}, {facts['num_threads']} threads", facts=facts)


def _faiss(name: str) -> Finding:
    try:
        import faiss
    except ImportError:
        says = "not installed: every search is exact; pip install 'perception-search[cpu]'"
        return Finding(name, says, facts={"version": None})
    num_gpus = faiss.get_num_gpus() if hasattr(faiss, "StandardGpuResources") else 0
    options = faiss.get_compile_options().split()
    says = f"{faiss.__version__}, {' '.join(options).lower()}; {num_gpus or 'no'} GPU" + (
        "s" if num_gpus > 1 else ""
    )
    facts = {"version": faiss.__version__, "options": options, "num_gpus": num_gpus}
    return Finding(name, says, facts=facts)


def _decoders(name: str) -> Finding:
    import av
    import PIL

    facts = {
        "pillow": PIL.__version__,
        "pyav": av.__version__,
        "ffmpeg": str(av.ffmpeg_version_info),
        "torchcodec": _version("torchcodec"),
    }
    says = f"Pillow {facts['pillow']}, PyAV {facts['pyav']} with FFmpeg {facts['ffmpeg']}, "
    if facts["torchcodec"] is None:
        return Finding(name, says + "no torchcodec", facts=facts)
    says += f"torchcodec {facts['torchcodec']}"
    try:
        start_worker(WorkerOptions(video_backend="torchcodec")).close()
        library: Any = importlib.import_module("torchcodec")
        facts["system_ffmpeg"] = str(library.ffmpeg_major_version)
        says += f" with the system's FFmpeg {facts['system_ffmpeg']}"
    except PerceptionSearchError as error:
        facts["system_ffmpeg"] = None
        says += f", which does not work ({error})"
    return Finding(name, says, facts=facts)


def _extras(name: str) -> Finding:
    try:
        asked = importlib.metadata.metadata(_DISTRIBUTION).get_all("Provides-Extra") or []
        needed = [Requirement(each) for each in importlib.metadata.requires(_DISTRIBUTION) or []]
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, "cannot be told: the package is not installed, only its folder named")
    installed: list[str] = []
    lacking: list[str] = []
    for extra in sorted(set(asked) - _FOR_DEVELOPMENT):
        wanted = [
            each
            for each in needed
            if each.marker
            and each.marker.evaluate({"extra": extra})
            and not each.marker.evaluate({"extra": ""})
        ]
        is_there = all(_satisfies(each) for each in wanted)
        (installed if is_there else lacking).append(extra)
    says = f"{', '.join(installed) or 'none'}; not: {', '.join(lacking) or 'none'}"
    return Finding(name, says, facts={"installed": installed, "not_installed": lacking})


def _satisfies(wanted: Requirement) -> bool:
    version = _version(wanted.name)
    return version is not None and wanted.specifier.contains(version, prereleases=True)


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _machine(name: str) -> Finding:
    held = memory_of_machine()
    says = f"{num_cores()} cores, {_gb(held)} of memory, {platform.system()} {platform.release()}"
    facts = {
        "num_cores": num_cores(),
        "memory_bytes": held,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
    }
    return Finding(name, f"{says}, Python {facts['python']}", facts=facts)


def _cache(name: str) -> Finding:
    folder = cache_folder()
    nearest = next(each for each in (folder, *folder.parents) if each.exists())
    is_writable = nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)
    free_bytes = shutil.disk_usage(nearest).free
    if is_writable:
        says = f"{folder}, can be written{'' if folder.exists() else ' once it is needed'}"
    else:
        says = f"{folder} cannot be written; name another folder in PERCEPTION_SEARCH_CACHE"
    facts = {"folder": str(folder), "is_writable": is_writable, "free_bytes": free_bytes}
    return Finding(name, f"{says}; {_gb(free_bytes)} free", is_writable, facts)


def _hub(name: str) -> Finding:
    answers = hub_answers(HUB_SECONDS)
    says = "answers" if answers else f"no answer within {HUB_SECONDS:.0f} seconds"
    if not answers and os.environ.get("HF_HUB_OFFLINE"):
        says = "not asked: HF_HUB_OFFLINE is set"
    elif not answers:
        says += "; weights that are on this machine work without it"
    return Finding(name, says, facts={"answers": answers})


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _gb(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB"


_THINGS: dict[str, Callable[[str], Finding]] = {
    "decode workers": _workers,
    "decoders": _decoders,
    "machine": _machine,
    "GPU": _gpu,
    "torch": _torch,
    "FAISS": _faiss,
    "extras": _extras,
    "cache": _cache,
    "hub": _hub,
}
