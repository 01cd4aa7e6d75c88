"""What a process of its own does in the tests of pulling; it imports little, as every such process pays for it."""

import hashlib
import json
import os
import resource
import sys
import time
from pathlib import Path

from madzoo.errors import MadzooError
from madzoo.hub.pull import pull


def pull_and_tell(address, repo, cache, ready, start):
    """Pulls and writes what came; ``ready`` is sent once everything is imported."""
    os.environ["HF_ENDPOINT"] = address
    ready.send(True)
    start.wait()
    folder = pull(repo, cache_dir=cache)
    Path(f"{cache}-{os.getpid()}.json").write_text(json.dumps(hashes(folder)))


def pull_on_a_full_disk(address, repo, cache, limit):
    """Pulls where no file can grow beyond ``limit`` bytes, as on a disk that is full, and writes what went wrong."""
    os.environ["HF_ENDPOINT"] = address
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    start = time.monotonic()
    try:
        pull(repo, cache_dir=cache)
    except MadzooError as error:
        sys.stdout.write(f"{type(error).__name__} {error}\n{time.monotonic() - start:.0f} seconds\n")


def hashes(folder):
    """Returns the sha256 of every file of a folder, by name."""
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
