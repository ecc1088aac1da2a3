"""Images a second, the share of time spent waiting for data, memory, and the one progress line or bar."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from tqdm import tqdm

BYOL_WORK = 8 / 3
"""A source image in BYOL with two views, over one in supervised training: two online passes of a forward and a backward
of twice its work, and two target passes, make 8 forwards; one pass makes 3."""


class Throughput:
    """Counts images and waiting over the last window of steps.

    Args:
        processes: That train together, each counting its own images.
        clock: Seconds, monotonic.
        supervised: Images/s at which one process takes the encoder alone forward and backward; 0 where the efficiency
            cannot be told.
        cost: Operations of the method over those of BYOL.
    """

    def __init__(
        self, processes: int = 1, clock: Callable[[], float] = time.perf_counter, supervised: float = 0.0,
        cost: float = 1.0,
    ) -> None:
        self._processes = processes
        self._work = BYOL_WORK * cost
        self._supervised = supervised
        self._clock = clock
        self._start = clock()
        self._images = 0
        self._waited = 0.0
        self._idle_since = self._start

    def begin(self) -> None:
        """A batch has arrived."""
        self._waited += self._clock() - self._idle_since

    def end(self, images: int) -> None:
        """A step is done."""
        self._images += images * self._processes
        self._idle_since = self._clock()

    def read(self) -> dict[str, float]:
        """Metrics since the last call.

        Returns:
            `images_per_s`, of all processes; `data_wait`, the fraction of time waiting for data; `efficiency`, where
            the supervised rate is known: the work of these images over what the processes would do at that rate
            in the same time, waiting included; with CUDA `peak_memory_bytes`, the most that tensors of this process
            have taken so far.
        """
        import torch  # not for the bar alone: preparing data needs no half a gigabyte of it

        elapsed = max(self._clock() - self._start, 1e-9)
        rate = self._images / elapsed
        found = {"images_per_s": round(rate, 1), "data_wait": round(self._waited / elapsed, 3)}
        if self._supervised:
            found["efficiency"] = round(rate * self._work / (self._supervised * self._processes), 3)
        if peak := torch.cuda.max_memory_allocated():  # 0 without CUDA, or with a CPU for device
            found["peak_memory_bytes"] = peak
        self._start, self._images, self._waited = self._clock(), 0, 0.0
        return found


class Progress:
    """One bar on a terminal, a plain line now and then elsewhere.

    Args:
        total: Steps of the whole run.
        done: Steps done before.
        unit: What a step is called.
        every: Seconds between plain lines.
    """

    def __init__(self, total: int, done: int = 0, unit: str = "step", every: float = 15.0, title: str = "") -> None:
        self._total = total
        self._title = title or unit
        self._every = every
        self._unit = unit
        self._last = time.perf_counter()
        self._started = self._last
        self._first = done
        terminal = sys.stderr.isatty()
        self._bar = (
            tqdm(total=total, initial=done, unit=unit, desc=self._title, dynamic_ncols=True, file=sys.stderr)
            if terminal
            else None
        )

    def update(self, done: int, note: str = "") -> None:
        """Show that `done` of the total are done."""
        if self._bar is not None:
            if note:
                self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(done - self._bar.n)
            return
        now = time.perf_counter()
        if now - self._last >= self._every or done == self._total:
            self._last = now
            left = (now - self._started) / max(done - self._first, 1) * (self._total - done)
            line = f"{self._title} {done}/{self._total} {self._unit}s, {left:.0f} s left"
            print(f"{line}  {note}".rstrip(), file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.close()
