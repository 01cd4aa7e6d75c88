"""One pull from one repository of the Hub: its commit, its list of files, and each file, cached or fetched."""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from huggingface_hub import errors

from madzoo.checkpoint.cache import COMMIT, cached_path, client_head, locked, matches, published_hash, repo_cache
from madzoo.checkpoint.fetch import Pulled, ask_file, check_commit, fetch_file
from madzoo.checkpoint.folder import CONFIG_FILE, read_folder
from madzoo.checkpoint.listing import Listing, ask_listing, read_listing, write_listing
from madzoo.checkpoint.network import is_offline, is_unreachable, persist, refuse_offline, translated
from madzoo.checkpoint.patience import Patience
from madzoo.checkpoint.pins import read_head, write_head
from madzoo.checkpoint.resolve import Location
from madzoo.checkpoint.weights import sha256_of
from madzoo.errors import DownloadError

__all__ = ["RepositoryPull"]

logger = logging.getLogger(__name__)


class RepositoryPull:
    """One pull from one repository: where its files lie, and the patience that its requests share."""

    def __init__(self, location: Location, cache_dir: Path | None) -> None:
        self.location, self.revision = location, location.revision or "main"
        self.folder, self.patience = repo_cache(location, cache_dir), Patience()

    def writing(self) -> AbstractContextManager[None]:
        """Keeps others from writing into the cache of the repository."""
        return locked(self.folder, self.patience)

    def commit_of_file(self) -> str:
        """Returns the commit that the revision stands for, asked for by one file."""
        return self._follow(lambda: str(ask_file(self.location, self.revision, patience=self.patience).commit_hash))

    def listing(self) -> Listing:
        """Returns the commit that the revision stands for, and its files."""
        asked: list[Listing] = []

        def ask() -> str:
            asked.append(self._ask_listing(self.revision))
            return asked[0].commit

        commit = self._follow(ask)
        known = asked[0] if asked else read_listing(self.folder, commit)
        if known is None and is_offline():
            known = self._held(commit)
        if known is None:
            with translated(self.location, self.folder, commit=commit):
                known = self._ask_listing(commit)
        return known

    def _held(self, commit: str) -> Listing | None:
        """Returns what the cache has of a commit that another program fetched: all that can be known offline."""
        folder = cached_path(self.folder, commit, CONFIG_FILE).parent
        names = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
        return Listing(commit=commit, files=dict.fromkeys(names)) if names else None

    def config(self, listing: Listing) -> tuple[Path, str | None]:
        """Returns the folder of a commit, whose configuration was read, and the sha256 its weights must have."""
        folder = self.file(CONFIG_FILE, listing.commit, listing=listing).path.parent
        return folder, read_folder(folder).sha256

    def file(self, file: str, commit: str, *, sha256: str | None = None, listing: Listing | None = None) -> Pulled:
        """Returns a verified file of a commit, from the cache or over the network."""
        location = replace(self.location, file=file, sha256=sha256)
        with translated(location, self.folder, commit=commit):
            if listing is not None and file not in listing.files:
                raise errors.EntryNotFoundError(f"{self.location.repo} holds no {file}")
            published = listing.files[file] if listing else None
            pulled = self._cached(location, commit, published)
            if pulled is None:
                refuse_offline()
                with self.writing():  # another process may have fetched it while this one waited
                    pulled = self._cached(location, commit, published) or fetch_file(
                        location, commit, self.folder, patience=self.patience
                    )
        return pulled

    def _cached(self, location: Location, commit: str, published: str | None) -> Pulled | None:
        """Returns a file of the cache if it still is what it was when it came."""
        path = cached_path(self.folder, commit, location.file)
        if not path.is_file():
            return None
        with self.patience.paused():  # a large file takes a while to read
            sha256, digest = sha256_of(path), published_hash(path) or published
            if location.sha256 in (None, sha256) and (digest is None or matches(path, digest, sha256=sha256)):
                return Pulled(path=path, sha256=sha256)
        logger.warning("%s does not have the hash it must have, and is fetched again", path)
        if is_offline():
            raise OSError(f"the cached file is damaged: its sha256 is {sha256}, not {location.sha256 or digest}")
        return None

    def _follow(self, ask: Callable[[], str]) -> str:
        """Returns the commit asked of the Hub, or the one last seen where the Hub does not answer."""
        if COMMIT.fullmatch(self.revision):
            return self.revision
        recorded = read_head(self.folder, self.revision)
        known = recorded or client_head(self.folder, self.revision)
        if known and is_offline():
            return known
        try:
            with translated(self.location, self.folder):
                commit = ask()
        except DownloadError as error:
            if known is None or not is_unreachable(error.__cause__):
                raise
            logger.warning(
                "the Hub does not answer; %s is taken at the commit last seen, %s", self.location.repo, known
            )
            return known
        if commit != recorded:
            with translated(self.location, self.folder), self.writing():
                write_head(self.folder, self.revision, commit)
        return commit

    def _ask_listing(self, revision: str) -> Listing:
        refuse_offline()
        repo, patience = self.location.repo, self.patience
        listing = persist(lambda: ask_listing(repo, revision, patience=patience), patience=patience)
        check_commit(revision, listing.commit)
        if read_listing(self.folder, listing.commit) != listing:
            with self.writing():
                write_listing(self.folder, listing)
        return listing
