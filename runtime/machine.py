"""What this machine is: its processor, the cores that this process may use, and its CUDA devices."""

import ctypes
import math
import os
import platform
import sys
from functools import cache
from pathlib import Path
from typing import Any

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

_CPUS = Path("/sys/devices/system/cpu")


def cpu_name() -> str:
    """Model of the processor, as `AMD EPYC 7B13`."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return " ".join(value.split())
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    """Count the physical cores that this process may use, a container's quota taken into account.

    Two hardware threads of one core count once: they share the units that a convolution keeps busy.
    """
    cores = len({_siblings(cpu) for cpu in _allowed_cpus()})
    quota = _quota()
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def cuda_devices() -> tuple[str, ...]:
    """Names of the CUDA devices that the driver shows this process; none without a driver."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return ()
    count = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return ()
    names = []
    for ordinal in range(count.value):
        device, name = ctypes.c_int(), ctypes.create_string_buffer(256)
        if not driver.cuDeviceGet(ctypes.byref(device), ordinal):
            driver.cuDeviceGetName(name, len(name), device)
            names.append(name.value.decode(errors="replace"))
    return tuple(names)


def peak_bytes() -> int | None:
    """Most memory that this process has held so far; None where the system does not say."""
    if resource is None:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def held_bytes(provider: str) -> int | None:
    """Memory held now: most that this process has held, or what is taken of the first NVIDIA device.

    None where nobody says.
    """
    if provider != "cpu":
        return _device_bytes()
    status = Path("/proc/self/status")  # not getrusage: there a child begins with its parent's peak
    if not status.exists():
        return None
    lines = (line.split() for line in status.read_text().splitlines())
    return next((1024 * int(words[1]) for words in lines if words[0] == "VmHWM:"), None)


def energy_j() -> float | None:
    """Energy that the first NVIDIA device has used since its driver was loaded; None where nobody says."""
    library, device = _nvml()
    used_mj = ctypes.c_ulonglong()
    if library is None or library.nvmlDeviceGetTotalEnergyConsumption(device, ctypes.byref(used_mj)):
        return None
    return used_mj.value / 1000


def _device_bytes() -> int | None:
    library, device = _nvml()
    memory = (ctypes.c_ulonglong * 3)()  # total, free, used
    if library is None or library.nvmlDeviceGetMemoryInfo(device, ctypes.byref(memory)):
        return None
    return memory[2]


@cache
def _nvml() -> tuple[Any, ctypes.c_void_p]:
    """NVIDIA's library that watches devices, and the first of them; no library where it does not work."""
    device = ctypes.c_void_p()
    try:
        library = ctypes.CDLL("nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1")
    except OSError:
        return None, device
    failed = library.nvmlInit_v2() or library.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(device))
    return (None if failed else library), device


def _allowed_cpus() -> list[int]:
    if sys.platform == "linux":
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _siblings(cpu: int) -> str:
    """Name the core that a hardware thread belongs to."""
    path = _CPUS / f"cpu{cpu}" / "topology" / "thread_siblings_list"
    return path.read_text().strip() if path.exists() else str(cpu)


def _quota() -> float | None:
    """Return the processors that a cgroup grants, None for all."""
    path = Path("/sys/fs/cgroup/cpu.max")
    if not path.exists():
        return None
    quota, period = path.read_text().split()
    return None if quota == "max" else int(quota) / int(period)
