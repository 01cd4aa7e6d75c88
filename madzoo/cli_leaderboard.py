"""``madzoo leaderboard``: results, cards and the Hub, as one page that opens from disk."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["leaderboard"]


def leaderboard(
    results: Annotated[
        list[Path] | None, typer.Argument(metavar="[RESULTS]...", help="What evaluate --out wrote; checkpoint folders.")
    ] = None,
    hub: Annotated[str | None, typer.Option(metavar="ORG", help="Also this author's models on the Hub.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the site.")] = Path("site"),
    bundled: Annotated[bool, typer.Option(help="Also the checkpoints that come with madzoo.")] = True,
    latency: Annotated[
        bool, typer.Option("--latency", help="Time the checkpoints on this machine; kept in latency.json.")
    ] = False,
    rounds: Annotated[int, typer.Option(help="Calls of each model that count, with --latency.")] = 20,
) -> None:
    """Write a leaderboard: tables, plots, and a page per model; needs the extra "leaderboard"."""
    from madzoo.workflows.leaderboard import leaderboard

    typer.echo(str(leaderboard(results or (), hub=hub, out=out, bundled=bundled, latency=latency, rounds=rounds)))
