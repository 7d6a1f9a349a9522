"""Which devices compute, and in what numbers; knows no model."""

import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

DTYPES = ("auto", "float32", "bfloat16", "int8")
ALL_GPUS = "cuda:*"


def check_device(device: str, dtype: str) -> None:
    """Raise ValueError unless both are words that `choose_device` and `choose_dtype` take."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", device):
        raise ValueError(f"device={device!r}; one of auto, cpu, cuda, cuda:<n>, mps")
    if dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r}; one of {', '.join(DTYPES)}")
    if dtype == "int8" and device not in ("auto", "cpu"):
        raise ValueError(f"dtype='int8' with device={device!r}; int8 is for device='cpu'")


def check_devices(devices: str, dtype: str) -> None:
    """`check_device` of what `choose_devices` takes: one device, or several."""
    names = ["cuda"] if devices == ALL_GPUS else _names(devices)
    if len(names) > 1 and not all(re.fullmatch(r"cpu|cuda:\d+", name) for name in names):
        raise ValueError(
            f"device={devices!r}; several devices are cpu or cuda:<n> with commas between, and "
            f"{ALL_GPUS} is every GPU"
        )
    for name in names:
        check_device(name, dtype)


def choose_device(device: str, dtype: str = "auto") -> "torch.device":
    """The device of a name; `auto` is the first there is of cuda, mps and cpu.

    Raises:
        ValueError: torch sees no such device on this machine.
    """
    import torch

    if dtype == "int8":
        return torch.device("cpu")
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    chosen = torch.device(device)
    is_missing = {
        "cuda": (chosen.index or 0) >= torch.cuda.device_count(),
        "mps": not torch.backends.mps.is_available(),
    }
    if is_missing.get(chosen.type):
        raise ValueError(
            f"device={device!r}; torch {torch.__version__} sees no such device on this machine; "
            "auto takes the best there is"
        )
    return chosen


def choose_devices(devices: str, dtype: str = "auto") -> "tuple[torch.device, ...]":
    """The devices of names with commas between; `cuda:*` is every GPU.

    Raises:
        ValueError: torch sees no such device on this machine.
    """
    if devices == ALL_GPUS:
        import torch

        devices = ",".join(f"cuda:{number}" for number in range(torch.cuda.device_count() or 1))
    return tuple(choose_device(device, dtype) for device in _names(devices))


def described(device: "torch.device") -> str:
    """A device by name, a GPU with what it is: `cuda:0 (NVIDIA H200)`."""
    import torch

    gpu = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
    return f"{device}{gpu}"


def _names(devices: str) -> list[str]:
    return [device.strip() for device in devices.split(",")]


def choose_dtype(dtype: str, device: "torch.device") -> str:
    """`float32`, `bfloat16` or `int8`; `auto` is bfloat16 where the device computes in it.

    On a CPU that takes avx512_bf16 or amx_bf16. Never float16: a CPU only emulates it.
    """
    import torch

    if dtype != "auto":
        return dtype
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        fast = computes_in_bfloat16() and device.type == "cpu"
    return "bfloat16" if fast else "float32"


def float_of(dtype: str) -> "torch.dtype":
    """What tensors are held in; int8 layers take and give float32."""
    import torch

    return torch.bfloat16 if dtype == "bfloat16" else torch.float32


def computes_in_bfloat16() -> bool:
    """Whether the CPU has instructions for it, instead of emulating it."""
    return bool(cpu_flags() & {"avx512_bf16", "amx_bf16"})


@cache
def cpu_flags() -> frozenset[str]:
    """Instruction sets of an x86 processor under Linux, as /proc/cpuinfo names them; else empty."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("flags"):
                return frozenset(line.partition(":")[2].split())
    except OSError:
        pass
    return frozenset()
