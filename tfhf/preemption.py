"""Leaving in good order: SIGTERM (a preempted machine) and SIGINT end a run after its step, with a checkpoint.

The process then exits with status 75 (sysexits.h: EX_TEMPFAIL, "try again"), after one line. A machine that is taken
away gives about 30 s; `GRACE_S` after the signal the process is gone, whatever it was doing.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

EXIT_STATUS = 75
GRACE_S = 18.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Preempted(SystemExit):
    """A run that was asked to stop and did; the same command goes on. Left alone it ends the process with status 75.

    Attributes:
        message: the one line to tell.
    """

    def __init__(self, message: str):
        super().__init__(EXIT_STATUS)
        self.message = message


class StopSignals:
    """A context in which SIGTERM and SIGINT are only noted. A second SIGINT works as it did before.

    Python runs signal handlers between two of its own instructions, which a compilation of minutes can delay; a thread
    that is told by the C handler therefore ends the process `grace_s` after the signal if the context is still open.
    Outside the main thread, where Python allows no handlers, nothing is changed.

    Attributes:
        requested: the name of the signal that came, or "".
    """

    def __init__(self, grace_s: float = GRACE_S):
        self.requested = ""
        self.grace_s = grace_s
        self._before: dict = {}
        self._left = threading.Event()

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
            self._reading, self._writing = os.pipe()
            os.set_blocking(self._writing, False)
            self._descriptor = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
            self._watch = threading.Thread(target=self._end_in_time, daemon=True, name="tfhf-stop-signals")
            self._watch.start()
        return self

    def __exit__(self, *_):
        if not self._before:
            return
        self._left.set()
        signal.set_wakeup_fd(self._descriptor)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self._writing)  # ends the thread
        self._watch.join()
        os.close(self._reading)

    def _note(self, number, frame) -> None:
        self.requested = self.requested or signal.Signals(number).name
        if number == signal.SIGINT:
            signal.signal(number, self._before[number])

    def _end_in_time(self) -> None:
        while came := os.read(self._reading, 1):
            if came[0] in _SIGNALS and not self._left.wait(self.grace_s):
                print(f"stopped by {signal.Signals(came[0]).name}: no step and checkpoint were done within "
                      f"{self.grace_s:.0f} s; the same command goes on from the checkpoint before",
                      file=sys.stderr, flush=True)
                os._exit(EXIT_STATUS)
