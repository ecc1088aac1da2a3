"""Images a second, the share of time spent waiting for data, and the one progress line or bar."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from tqdm import tqdm


class Throughput:
    """Counts images and waiting over the last window of steps.

    Args:
        processes: That train together, each counting its own images.
        clock: Seconds, monotonic.
    """

    def __init__(self, processes: int = 1, clock: Callable[[], float] = time.perf_counter) -> None:
        self._processes = processes
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

    def read(self) -> tuple[float, float]:
        """(images/s, fraction of time waiting for data) since the last call."""
        elapsed = max(self._clock() - self._start, 1e-9)
        found = self._images / elapsed, self._waited / elapsed
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
