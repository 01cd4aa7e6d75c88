"""Files of a release page: verified, pinned by their hash, and kept beside huggingface_hub's cache."""

import hashlib
import logging
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from huggingface_hub import constants

from madzoo.checkpoint.cache import locked
from madzoo.checkpoint.fetch import Pulled, receive
from madzoo.checkpoint.network import persist, refuse_offline, translated
from madzoo.checkpoint.patience import Patience
from madzoo.checkpoint.pins import read_pin, write_pin
from madzoo.checkpoint.resolve import Location
from madzoo.checkpoint.weights import sha256_of

__all__ = ["pull_release"]

logger = logging.getLogger(__name__)


def pull_release(location: Location, cache_dir: Path | None) -> Pulled:
    """Returns a release file from the cache, else over the network; the first pull pins an unknown hash.

    Raises:
        DownloadError: when it is neither cached nor reachable, or arrives damaged twice.
    """
    root = cache_dir or Path(constants.HF_HOME)
    folder = root / "madzoo" / hashlib.sha256(location.url.encode()).hexdigest()[:16]
    path = folder / Path(urlsplit(location.url).path).name
    patience = Patience()
    pinned = read_pin(folder, "release", path.name)[1]
    location = replace(location, file=path.name, sha256=location.sha256 or pinned)
    with translated(location, folder):
        sha256 = _cached_release(path, location.sha256)
        if sha256 is None:
            with locked(folder, patience):
                sha256 = _cached_release(path, location.sha256) or _fetch_release(location, path, patience)
        if location.sha256 is None:
            with locked(folder, patience):
                write_pin(folder, "release", path.name, commit=location.url, sha256=sha256)
            logger.warning("pinned %s, sha256 %s", location.url, sha256)
    return Pulled(path=path, sha256=sha256)


def _cached_release(path: Path, expected: str | None) -> str | None:
    if not path.exists():
        return None
    sha256 = sha256_of(path)
    return sha256 if expected in (None, sha256) else None


def _fetch_release(location: Location, path: Path, patience: Patience) -> str:
    refuse_offline()
    partial = path.with_name(f".{path.name}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        for _ in range(2):
            patience.renew()
            persist(lambda: receive(location.url, partial, headers={}, patience=patience), patience=patience)
            sha256 = sha256_of(partial)
            if location.sha256 in (None, sha256):
                partial.replace(path)
                return sha256
            logger.warning("%s arrived damaged", location.url)
    finally:
        partial.unlink(missing_ok=True)
    raise OSError(f"it arrived damaged twice: its sha256 is {sha256}, not {location.sha256}")
