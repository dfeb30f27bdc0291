"""Threads and memory settings that decide the speed on a small machine."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_NEVER = 2**31 - 1


def keep_memory() -> None:
    """Tell glibc's allocator to keep freed memory instead of handing it back to the system.

    Every large tensor otherwise comes as fresh pages that the kernel must zero first, at each step again.
    Does nothing where there is no glibc.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_TRIM_THRESHOLD, _NEVER)
        libc.mallopt(_M_MMAP_THRESHOLD, _NEVER)
    except (OSError, AttributeError):  # musl: its allocator has no such settings
        return


def available_memory(device: str) -> int:
    """Bytes of memory that can be used now, on the device that computes."""
    if not device.startswith("cpu"):
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    try:
        fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        machine = int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):  # not Linux
        machine = 4 * 1024**3
    try:  # a container may have less than its machine
        group = Path("/sys/fs/cgroup")
        limit, used = ((group / f"memory.{name}").read_text() for name in ("max", "current"))
        return min(machine, max(0, int(limit) - int(used)))
    except (OSError, ValueError):  # no control group, or one without a limit ("max")
        return machine
