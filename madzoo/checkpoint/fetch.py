"""One file from the network onto the disk: whole, verified, and only then under the name it is known by."""

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from huggingface_hub import constants, errors, get_hf_file_metadata, get_session, hf_hub_download, hf_hub_url
from huggingface_hub.file_download import HfFileMetadata
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

from madzoo.checkpoint.cache import COMMIT, DIGEST, LOOK, matches, place, watch
from madzoo.checkpoint.network import OtherFileError, endpoint, is_full, persist, refuse_offline
from madzoo.checkpoint.patience import Patience
from madzoo.checkpoint.resolve import Location
from madzoo.checkpoint.weights import sha256_of

__all__ = ["Pulled", "ask_file", "check_commit", "fetch_file", "receive"]

HAS_XET = find_spec("hf_xet") is not None  # an optional part of huggingface_hub
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pulled:
    """Names a file in the cache that was verified just now.

    Attributes:
        path: the file.
        sha256: of its content.
    """

    path: Path
    sha256: str


def ask_file(location: Location, revision: str, *, patience: Patience) -> HfFileMetadata:
    """Asks the Hub for the commit, hash and size of one file.

    Raises:
        OSError: when no Hub answers; huggingface_hub's errors when one refuses.
    """
    refuse_offline()
    url = hf_hub_url(location.repo, location.file, revision=revision, endpoint=endpoint())
    told = persist(lambda: get_hf_file_metadata(url, timeout=patience.timeout, endpoint=endpoint()), patience=patience)
    if not told.commit_hash or not COMMIT.fullmatch(told.commit_hash):
        raise OSError(f"{url} names no commit, so that no Hub seems to answer there")
    check_commit(revision, told.commit_hash)
    return told


def check_commit(revision: str, told: str) -> None:
    """Raises OtherFileError where a commit was asked for and another one answers, as a branch of that name would."""
    if COMMIT.fullmatch(revision) and told != revision:
        raise OtherFileError(f"the Hub answers with commit {told} in place of {revision}")


def fetch_file(location: Location, commit: str, folder: Path, *, patience: Patience) -> Pulled:
    """Fetches one file of a commit into the cache; what arrives damaged is fetched once more.

    Raises:
        OSError: when it arrives damaged twice, or is not the one expected, or the disk is full.
    """
    told = ask_file(location, commit, patience=patience)
    digest = told.etag or ""
    if not DIGEST.fullmatch(digest):
        raise OSError("the server tells no hash of it, so that it cannot be verified")
    if location.sha256 and not COMMIT.fullmatch(digest) and digest != location.sha256:
        raise OtherFileError(f"the Hub publishes another file: its sha256 is {digest}, not {location.sha256}")
    partial = folder / "blobs" / f"{digest}.madzoo.incomplete"
    for other in set(partial.parent.glob("*.madzoo.incomplete")) - {partial}:
        other.unlink(missing_ok=True)  # of a pull that was killed; nobody else writes here now
    for is_again in (False, True):
        patience.renew()
        if told.xet_file_data and HAS_XET and not constants.HF_HUB_DISABLE_XET and not is_again:
            _receive_xet(location, commit, folder, partial, patience)
        try:
            persist(lambda: _receive_rest(location, commit, partial, told.size, patience), patience=patience)
        except OSError as error:
            if is_full(error):
                partial.unlink(missing_ok=True)  # elsewhere a later pull goes on from it; here others need the room
            raise
        sha256 = sha256_of(partial)
        if location.sha256 in (None, sha256) and matches(partial, digest, sha256=sha256):
            return Pulled(path=place(partial, folder, commit, location.file, digest=digest), sha256=sha256)
        partial.unlink()
        logger.warning("%s of %s@%s arrived damaged", location.file, location.repo, commit)
    raise OSError(f"it arrived damaged twice: its sha256 is {sha256}, not {location.sha256 or digest}")


def _receive_rest(location: Location, commit: str, partial: Path, size: int | None, patience: Patience) -> None:
    """Receives what is still missing of a file, which an earlier try, or an earlier process, may have begun."""
    partial.parent.mkdir(parents=True, exist_ok=True)
    held = partial.stat().st_size if partial.exists() else 0
    if size is not None and held == size and held:
        return
    # The Hub is asked anew each time: the address it redirects to is signed and does not hold for long.
    url = hf_hub_url(location.repo, location.file, revision=commit, endpoint=endpoint())
    headers = build_hf_headers(library_name="madzoo")
    held = held if size is not None and held < size else 0
    receive(url, partial, headers=headers, held=held, size=size, patience=patience)


def receive(
    url: str, partial: Path, *, headers: Mapping[str, str], held: int = 0, size: int | None = None, patience: Patience
) -> None:
    """Writes what an address sends into a file.

    Args:
        url: the address; a token in ``headers`` goes to its host alone, never to one it redirects to.
        partial: the file; longer than ``held`` bytes it is begun anew.
        headers: of the request.
        held: bytes of the file that are there already.
        size: what the file must have in the end; None: not known.
        patience: ends the wait for a server that sends nothing, or next to nothing.

    Raises:
        OSError: when the file ends early or does not end, or the disk is full; TimeoutError when patience ends.
    """
    asked = {**headers, "Accept-Encoding": "identity", **({"Range": f"bytes={held}-"} if held else {})}
    with get_session().stream("GET", url, headers=asked, follow_redirects=True, timeout=patience.timeout) as response:
        hf_raise_for_status(response)
        is_rest = response.headers.get("Content-Range", "").startswith(f"bytes {held}-") and held > 0
        position = held if is_rest else 0
        with partial.open("ab" if is_rest else "wb") as file:
            for part in response.iter_bytes():
                position += file.write(part)
                patience.reach(position)
                if size is not None and position > size:
                    break
    if size is not None and position < size:
        raise OSError(f"it ended after {position} of {size} bytes")


def _receive_xet(location: Location, commit: str, folder: Path, partial: Path, patience: Patience) -> None:
    """Receives a file by xet, as far as that works; whatever is missing or wrong afterwards comes by plain HTTP."""
    found: list[Path] = []

    def download() -> None:
        try:
            name = {"revision": commit, "cache_dir": folder.parent, "endpoint": endpoint(), "force_download": True}
            found.append(Path(hf_hub_download(location.repo, location.file, library_name="madzoo", **name)))
        except (OSError, RuntimeError, ValueError, errors.EntryNotFoundError) as error:
            logger.warning("xet did not bring %s of %s: %s", location.file, location.repo, error)

    # hf_xet waits minutes for a store that does not answer; a thread that is left behind keeps nobody waiting.
    look = watch(folder, Patience(limit=patience.limit / 2))  # the other half is for plain HTTP
    thread = threading.Thread(target=download, daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(LOOK)
            look()
    except TimeoutError:
        logger.warning("xet brings nothing of %s of %s", location.file, location.repo)
    if found:
        found[0].resolve().replace(partial)
        found[0].unlink(missing_ok=True)
