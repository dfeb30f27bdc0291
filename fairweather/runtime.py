"""Threads and memory settings that decide the speed on a small machine."""

from __future__ import annotations

import ctypes
import math
import os
import platform
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Literal, TypeVar

from fairweather.errors import OutOfMemoryError

Item = TypeVar("Item")
Read = TypeVar("Read")
Computed = TypeVar("Computed")
Made = TypeVar("Made")

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_NEVER = 2**31 - 1


SPINS = "1000"
"""Some microseconds; GNU's OpenMP spins for milliseconds where there are as many threads as cores."""


def wait_asleep() -> None:
    """Let threads of OpenMP that wait for others sleep soon, unless the user's settings say how they wait.

    On a busy core a thread that spins keeps another program, and so the thread it waits for, from running. To be called
    before torch is loaded.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & set(os.environ):
        os.environ["GOMP_SPINCOUNT"] = SPINS


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
        libc.mallopt(_M_ARENA_MAX, 1)  # the heaps of other threads hold 64 MB, and tensors are larger
    except (OSError, AttributeError):  # musl: its allocator has no such settings
        return


def give_back_memory() -> None:
    """Hand what `keep_memory` kept back to the system, whose pieces the next picture or network may not fit."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):  # no glibc
        return


def in_order(work: Callable[[Item], Made], items: Sequence[Item], *, workers: int) -> Iterator[Made]:
    """What becomes of each item, in their order, made by several threads.

    No more than twice as many results as workers wait to be taken. Where the caller stops, what is under way is
    finished and the rest is not begun.

    >>> [*in_order(lambda x: 2 * x, [1, 2, 3], workers=2)]
    [2, 4, 6]
    """
    import torch

    waiting: deque[Future[Made]] = deque()
    # OpenMP counts for each thread anew.
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads,)) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) >= 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def overlapped(
    read: Callable[[Item], Read],
    compute: Callable[[Read], Computed],
    write: Callable[[Computed], Made],
    items: Sequence[Item],
) -> Iterator[Made]:
    """What becomes of each item, in their order: while one is computed, the next is read and the last is written.

    Computing stays in the caller's thread, where it can be interrupted. No more than one item waits at either side.

    >>> [*overlapped(int, lambda x: x + 1, str, ["1", "2", "3"])]
    ['2', '3', '4']
    """
    import torch

    pool = partial(ThreadPoolExecutor, 1, initializer=torch.set_num_threads, initargs=(1,))
    with pool() as reader, pool() as writer:
        reading = reader.submit(read, items[0]) if items else None
        writing: Future[Made] | None = None
        following = iter(items[1:])
        while reading:
            here = reading.result()
            reading = next((reader.submit(read, item) for item in following), None)
            try:
                done = compute(here)
            finally:  # also when interrupted: the last is written all the same
                if writing:
                    yield writing.result()
            writing = writer.submit(write, done)
        if writing:
            yield writing.result()


def in_turn(forms: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each, one after the other in each round, in alternating order."""
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    for form in [*forms.values()] * 3:  # OpenVINO compiles for a size that comes a second time
        form()
    for number in range(rounds):
        for name in reversed(forms) if number % 2 else forms:
            start = time.perf_counter()
            forms[name]()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def share_cores(workers: int) -> None:
    """Give each of several workers its part of torch's threads; to be called before back ends are loaded.

    On busy machines a network on one core never waits for the slowest of several.
    """
    import torch

    torch.set_num_threads(max(1, torch.get_num_threads() // workers))


RECKONED = 0.8
"""Of a budget, what is given out; the rest goes on pieces that the allocator cannot use again."""
_budget: float = math.inf
_sharing = 1
_common: float = math.inf
"""Of several workers: the least that was taken when one asked, which is what they have in common. What was taken more
is others' tiles, in their parts of the budget already."""


def limit_memory(budget: float = math.inf, *, workers: int = 1) -> None:
    """Set how much memory this process may take, in bytes, and how many workers share it; before loading networks."""
    global _budget, _sharing, _common
    _budget, _sharing, _common = budget, workers, math.inf


def sharing() -> int:
    """How many workers restore at once in this process."""
    return _sharing


def memory_is_limited() -> bool:
    """Whether this process was given a budget."""
    return _budget < math.inf


def memory_for(device: str, *, beside: float = 0, least: float = 0) -> float:
    """Bytes that the tiles of one picture may take now: half of what is free, or, of a budget, what is left of it.

    Args:
        beside: bytes that its result takes. least: raise OutOfMemoryError if the budget leaves less than this.
    """
    if not memory_is_limited() or not device.startswith("cpu"):
        return available_memory(device) / 2 / _sharing
    global _common
    give_back_memory()
    taken = _common = min(taken_memory(), _common if _sharing > 1 else math.inf)
    left = (_budget * RECKONED - taken) / _sharing - beside
    if left < least:
        # What a process holds differs a little from run to run: told with a margin, it does when it is typed in.
        needed = math.ceil((taken + _sharing * (beside + least)) / RECKONED / 1024**2 * 1.05 / 10) * 10
        budget = f"{_budget / 1024**2:.0f}MB" if _budget >= 1024**2 else f"{_budget:.0f} bytes"
        raise OutOfMemoryError(
            f"--memory-budget of {budget} is too small: the least that would do is {needed}MB"
            + (f", or less with fewer than {_sharing} workers" if _sharing > 1 else "")
        )
    return min(left, available_memory(device) / _sharing)


def taken_memory() -> int:
    """Bytes that this process holds now; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def has_bf16() -> bool | None:
    """Whether the processor computes in bf16 by itself (AVX-512, AMX, Arm); None where the system does not say."""
    flags = next((line for line in _cpuinfo() if line.lower().startswith(("flags", "features"))), None)
    return None if flags is None else bool({"avx512_bf16", "amx_bf16", "bf16"} & set(flags.split()))


@cache
def processor() -> str:
    """The name of this machine's processor."""
    names = [line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _cpuinfo() -> list[str]:
    """What Linux says of the processors, in lines; of other systems none."""
    try:
        return Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []


def usual_device(name: str) -> str:
    """The device that "auto" means here; any other name as it is."""
    import torch

    return name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu"


WORKER_MEMORY = 1.5 * 1024**3
"""Bytes that a worker should have, so that its tiles need not be small."""


def workers_for(asked: int | Literal["auto"], *, pictures: int, device: str) -> int:
    """How many workers restore so many pictures: on a CPU one for every two threads of torch's, where memory allows.

    On two idle cores one worker with both does 1.2 times as much as two with one each; on busy ones it is the reverse.
    """
    if asked != "auto":
        return max(1, min(asked, pictures))
    if not device.startswith("cpu"):
        return 1
    import torch

    memory = min(available_memory(device), _budget)
    return max(1, min(torch.get_num_threads() // 2, pictures, int(memory // WORKER_MEMORY)))


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
