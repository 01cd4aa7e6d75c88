"""The models that an author has on the Hub, as sources of a leaderboard; a broken one is left out and named."""

import logging
from collections.abc import Iterator

from madzoo.checkpoint.report_files import EVALUATION_FILE
from madzoo.errors import DataError, MadzooError
from madzoo.hub.cards import pull_card
from madzoo.hub.search import search
from madzoo.workflows.leaderboard_facts import facts_of
from madzoo.workflows.leaderboard_rows import HUB, Source, read_card

__all__ = ["hub_sources"]

logger = logging.getLogger(__name__)


def hub_sources(author: str) -> Iterator[Source]:
    """Reads the cards of an author's repositories that name madzoo as their library, each at its newest commit.

    Anybody may have written them: one that cannot be read, or has scores of other weights than its own, is left out,
    with a line in the log that says why.

    Raises:
        HubError: when the Hub refuses, or cannot be reached.
    """
    for found in sorted(search(author=author, limit=None), key=lambda found: found.repo):
        label = f"{HUB}{found.repo}@{found.commit}"
        try:
            yield _read(found.repo, str(found.commit), label)
        except MadzooError as error:
            logger.warning("%s is left out: %s", label, " ".join(str(error).split()))


def _read(repo: str, commit: str, label: str) -> Source:
    source = read_card(pull_card(repo, commit=commit), label=label)
    if not source.rows:
        raise DataError("it has no scores.", asked=EVALUATION_FILE)
    own = facts_of(source).weights_sha256
    if any((row.model, row.weights_sha256) != (source.name, own) for row in source.rows):
        raise DataError("its scores are of other weights.", asked=EVALUATION_FILE, resolved=f"{source.name}, {own}")
    return source
