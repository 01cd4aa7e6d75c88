"""Results in, one static site out: tables, plots, a page per model, and every number as CSV and JSON."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from madzoo.checkpoint.folder import madzoo_version
from madzoo.checkpoint.weights import atomic_path
from madzoo.errors import ConfigError
from madzoo.workflows.leaderboard_board import Board, build_board
from madzoo.workflows.leaderboard_cards import card_html, copy_plots, slug_of
from madzoo.workflows.leaderboard_facts import ModelFacts
from madzoo.workflows.leaderboard_files import board_csv, board_json
from madzoo.workflows.leaderboard_hub import hub_sources
from madzoo.workflows.leaderboard_latency import measure_latency, read_latency
from madzoo.workflows.leaderboard_libraries import plot_versions, table_version
from madzoo.workflows.leaderboard_lines import Weights
from madzoo.workflows.leaderboard_page import Site, index_html, model_html
from madzoo.workflows.leaderboard_rows import bundled_sources, read_results

__all__ = ["Leaderboard", "leaderboard"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Leaderboard:
    """States what was written.

    Attributes:
        index: the page to open.
        models, benchmarks, lines: how many it shows.
    """

    index: Path
    models: int
    benchmarks: int
    lines: int

    def __str__(self) -> str:
        """Returns one line."""
        return f"{self.index}: {self.models} models, {self.benchmarks} benchmarks, {self.lines} lines"


def leaderboard(
    results: Sequence[Path | str] = (),
    *,
    hub: str | None = None,
    out: Path | str = "site",
    bundled: bool = True,
    latency: bool = False,
    rounds: int = 20,
) -> Leaderboard:
    """Writes a leaderboard that opens from disk.

    The same inputs give the same bytes: nothing is measured and no clock is read, except for ``latency``.

    Args:
        results: files and folders; see :func:`madzoo.workflows.leaderboard_rows.read_results`.
        hub: also the models that this author or organisation has on the Hub, by their cards.
        out: the site's folder; pages of models that are gone are removed from its ``models`` folder.
        bundled: also the checkpoints that come with madzoo.
        latency: time every checkpoint whose weights are on this disk; ``latency.json`` in ``out`` keeps the times.
        rounds: calls of each model that count.

    Raises:
        ConfigError: when there is nothing to show, or ``rounds`` is no positive number.
        DataError: when a file does not fit its schema.
        HubError: when the Hub refuses, or cannot be reached; a broken repository is left out and named in the log.
        CheckpointError: when a folder is damaged, or the site cannot be written.

    Cost: seconds; ``latency`` adds ``rounds`` + 1 forward passes of each model.
    """
    if rounds < 1:
        raise ConfigError("rounds is a number of calls, at least 1.", asked=f"rounds={rounds}")
    site = Path(out)
    # What was measured here takes the place of what the Hub says of the same weights, so the Hub comes first.
    sources = [*(hub_sources(hub) if hub is not None else []), *(bundled_sources() if bundled else [])]
    sources += [source for path in results for source in read_results(path)]
    latencies = measure_latency(sources, site, rounds=rounds) if latency else read_latency(site)
    board = build_board(sources, latencies=latencies)
    if not board.groups:
        raise ConfigError("there is nothing to show.", asked=f"results {list(map(str, results))}, hub {hub}")
    command = _command(results, hub=hub, out=out, bundled=bundled)
    _write(Site(board=board, slugs=_slugs(board), command=command, made_with=_versions()), site)
    lines = sum(len(group.lines) for group in board.groups)
    return Leaderboard(index=site / "index.html", models=len(board.models), benchmarks=len(board.groups), lines=lines)


def _write(site: Site, out: Path) -> None:
    pages = out / "models"
    _clear(pages)
    for weights, slug in site.slugs.items():
        facts = site.board.models[weights]
        _save(pages / f"{slug}.html", model_html(site, weights, card=_card(facts, pages, slug)))
    _save(out / "leaderboard.csv", board_csv(site.board))
    _save(out / "leaderboard.json", board_json(site.board, made_with=dict(site.made_with), command=site.command))
    _save(out / "index.html", index_html(site))


def _card(facts: ModelFacts, pages: Path, slug: str) -> str | None:
    if facts.folder is None:
        return None
    copy_plots(facts.folder, pages / slug)
    return card_html(facts.folder, plots=slug)


def _clear(pages: Path) -> None:
    """Removes the pages and pictures of an earlier site, and nothing that is not one of them."""
    for page in pages.glob("*.html"):
        folder = page.with_suffix("")
        for picture in folder.glob("*") if folder.is_dir() else ():
            picture.unlink()
        if folder.is_dir():
            folder.rmdir()
        page.unlink()


def _save(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as partial:
        partial.write_bytes(text.encode("utf-8", errors="replace"))


def _slugs(board: Board) -> dict[Weights, str]:
    slugs: dict[Weights, str] = {}
    for weights in board.models:
        slugs[weights] = slug_of(weights[0], taken=slugs.values())
    return slugs


def _versions() -> dict[str, str]:
    return {"madzoo": madzoo_version(), "itables": table_version(), **plot_versions()}


def _command(results: Sequence[Path | str], *, hub: str | None, out: Path | str, bundled: bool) -> str:
    words = ["madzoo", "leaderboard", *map(str, results), *(["--hub", hub] if hub else [])]
    return shlex.join([*words, *([] if bundled else ["--no-bundled"]), "-o", str(out)])
