"""The files in PROMETHEUS_MULTIPROC_DIR: nothing that is wrong with them stops a start or a scrape.

prometheus-client keeps a file for each kind of metric of each process, mapped into its memory. If
such a file grows on a full disk the kernel kills the process; one file that is cut breaks each
scrape; and those of dead processes stay. So the space is reserved before a file is used, what is
broken is left out, and what dead processes counted is summed up in one file.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import struct
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from prometheus_client import values
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

log = logging.getLogger(__name__)

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
RESERVED = {"counter": 1 << 18, "histogram": 1 << 22, "gauge_mostrecent": 1 << 16}
"""Bytes for the metrics of one process by kind: some times what all routes and statuses take."""

_DEAD = "dead"
_BROKEN = (OSError, RuntimeError, ValueError, struct.error)


def prepare_metrics(directory: Path) -> None:
    """Make room for this process's files; where there is none, it counts for itself alone.

    To be called before the first metric is made.
    """
    try:
        with _alone(directory, fcntl.LOCK_EX):
            _sum_up_the_dead(directory)
            for kind, size in RESERVED.items():
                _reserve(directory / f"{kind}_{os.getpid()}.db", size)
    except OSError as error:
        log.warning(
            "metrics are of this process alone: no room in PROMETHEUS_MULTIPROC_DIR",
            extra={"error": error.strerror},
        )
        for kind in RESERVED:
            (directory / f"{kind}_{os.getpid()}.db").unlink(missing_ok=True)
        del os.environ[VARIABLE]
        values.ValueClass = values.MutexValue


def _reserve(path: Path, size: int) -> None:
    with path.open("ab") as file:
        os.posix_fallocate(file.fileno(), 0, size)


@contextmanager
def _alone(directory: Path, how: int) -> Iterator[None]:
    """No scrape sees what a dead process counted twice, or not at all."""
    with (directory / ".lock").open("a") as lock:
        fcntl.flock(lock, how)
        yield


def _sum_up_the_dead(directory: Path) -> None:
    for kind in ("counter", "histogram", "gauge_mostrecent"):
        dead = [path for path in directory.glob(f"{kind}_*.db") if _is_dead(path)]
        if not dead:
            continue
        total = directory / f"{kind}_{_DEAD}.db"
        if kind != "gauge_mostrecent":
            sums: dict[str, float] = defaultdict(float)
            for path in [total, *dead]:
                for key, value in _values(path):
                    sums[key] += value
            _write(total, sums)
        for path in dead:
            path.unlink()


def _is_dead(path: Path) -> bool:
    pid = path.stem.rpartition("_")[2]
    # Whoever had this process's id before is gone.
    return pid.isdigit() and (int(pid) == os.getpid() or not Path(f"/proc/{pid}").exists())


def _values(path: Path) -> list[tuple[str, float]]:
    try:
        read: Any = MmapedDict.read_all_values_from_file(str(path))  # type: ignore[no-untyped-call]
        return [(key, value) for key, value, _, _ in read if json.loads(key)]
    except FileNotFoundError:
        return []
    except _BROKEN:
        log.warning("a file of metrics is broken, and left out", extra={"file": path.name})
        return []


def _write(path: Path, sums: dict[str, float]) -> None:
    """Write the file anew: whole, or not at all."""
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    size = 1 << 16
    while size < sum(len(key) + 48 for key in sums):
        size *= 2
    _reserve(new, size)
    written: Any = MmapedDict(str(new))  # type: ignore[no-untyped-call]
    for key, value in sums.items():
        written.write_value(key, value, 0.0)
    written.close()
    new.replace(path)


class SharedCollector(MultiProcessCollector):
    """The metrics of all processes, without the files that are broken."""

    _said: ClassVar[set[str]] = set()

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry)  # type: ignore[no-untyped-call]
        self._directory = Path(os.environ[VARIABLE])

    def collect(self) -> list[Metric]:
        """What all have counted, as it is now."""
        with _alone(self._directory, fcntl.LOCK_SH):
            files = [str(path) for path in self._directory.glob("*.db")]
            try:
                return list(self.merge(files))  # type: ignore[no-untyped-call]
            except _BROKEN:
                good = [file for file in files if self._is_whole(Path(file))]
                return list(self.merge(good))  # type: ignore[no-untyped-call]

    def _is_whole(self, path: Path) -> bool:
        try:
            list(self.merge([str(path)]))  # type: ignore[no-untyped-call]
        except _BROKEN:
            if path.name not in self._said:
                self._said.add(path.name)
                log.warning("a file of metrics is broken, and left out", extra={"file": path.name})
            return False
        return True
