"""A trial notices that whoever started it is gone, however that one went, and takes its whole process group along."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time

# The number of a pipe's read end; nobody writes, so that it ends when the last holder of its write end is gone.
PIPE = "LAV_TRIAL_PIPE"
# Where the trial writes, and the file in there that asks it to stop, for a reason that it holds in words.
TRIAL_FOLDER, STOP = "LAV_TRIAL_FOLDER", "STOP"
GRACE = 5.0
# Not part of the group, so that it outlives a leader that ends in good order and leaves others behind.
_REAPER = """
tries={tries}
while [ $tries -gt 0 ] && kill -0 -- -{group} 2>/dev/null; do sleep 0.1; tries=$((tries - 1)); done
kill -KILL -- -{group} 2>/dev/null
"""


def watch_parent(grace: float = GRACE) -> None:
    """Nothing outside a trial; within one, end with the process that started it. `main` calls this first of all."""
    number = os.environ.pop(PIPE, None)  # processes that the trial starts have no such file
    if number is not None:
        watch(int(number), grace)


def watch(pipe: int, grace: float) -> None:
    """SIGTERM when the pipe ends, so that training ends in order; SIGKILL to the group after so many seconds."""
    os.set_inheritable(pipe, False)
    threading.Thread(target=_wait_for_end, args=(pipe, grace), name="parent watch", daemon=True).start()


def _wait_for_end(pipe: int, grace: float) -> None:
    while os.read(pipe, 1):
        pass
    group = os.getpgrp()
    reaper = _REAPER.format(tries=max(1, round(grace * 10)), group=group)
    try:
        subprocess.Popen(
            ["/bin/sh", "-c", reaper],
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    finally:  # also where no process can be started any more
        # The leader alone: its workers, ended beside it, would look to it like workers that crashed.
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(grace)
        os.killpg(group, signal.SIGKILL)
