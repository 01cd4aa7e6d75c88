"""Processes of their own that start at once: forked from a fresh interpreter which has imported madzoo and run nothing.

An import takes seconds, a fork does not. What hangs on a fresh start (a hash seed, say) asks for a new interpreter.
"""

import multiprocessing
import os
import subprocess
from pathlib import Path

__all__ = ["FORKS", "run_forked"]

FORKS = multiprocessing.get_context("forkserver" if hasattr(os, "fork") else "spawn")
FORKS.set_forkserver_preload(
    ["madzoo.training.loop", "madzoo.models.image.weft", "madzoo.data.images", "madzoo.geometry"]
)


def run_forked(function, *words, said: Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Calls a function of a module in a process of its own; returns its exit status and what it wrote.

    Args:
        function, words: the call; both are pickled.
        said: a folder that is made for what is written.
        timeout: seconds after which the process is killed.
    """
    said.mkdir()
    process = FORKS.Process(target=_call, args=(function, words, said))
    process.start()
    process.join(timeout)
    if process.is_alive():
        process.kill()
        process.join()
    out, err = ((said / name).read_text() for name in ("out", "err"))
    return subprocess.CompletedProcess([function.__name__, *words], process.exitcode or 0, out, err)


def _call(function, words, said):
    multiprocessing.set_start_method(None, force=True)  # its own processes start as they would anywhere
    for descriptor, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(said / name, os.O_WRONLY | os.O_CREAT), descriptor)
    function(*words)
