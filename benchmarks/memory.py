"""Anonymous memory of this process, which is what makes a machine swap: pages of mapped files do not count."""

import threading
import time
from pathlib import Path

STATUS = Path("/proc/self/status")
PERIOD = 0.01  # seconds


def anonymous() -> int:
    """Bytes of anonymous memory that are in RAM now (Linux)."""
    for line in STATUS.read_text().splitlines():
        if line.startswith("RssAnon:"):
            return 1024 * int(line.split()[1])
    raise OSError(f"{STATUS}: no RssAnon")


class AnonymousPeak:
    """Largest `anonymous()` while the block runs, looked at every 10 ms: `peak` bytes, `seconds` of the block."""

    def __enter__(self) -> "AnonymousPeak":
        self.peak, self.seconds, self._began = anonymous(), 0.0, time.perf_counter()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(PERIOD):
            self.peak = max(self.peak, anonymous())

    def __exit__(self, *_) -> None:
        self.seconds = time.perf_counter() - self._began
        self._done.set()
        self._thread.join()
        self.peak = max(self.peak, anonymous())
