"""``madzoo push``, ``madzoo pull`` and ``madzoo search``: checkpoint folders to and from the Hugging Face Hub."""

from pathlib import Path
from typing import Annotated

import typer

from madzoo.cli_parts import print_
from madzoo.tables import push_table, search_table

__all__ = ["pull", "push", "search"]

PREFIX = "hf-hub:"


def push(
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="A checkpoint folder, or a bundled arch.tag.")],
    repo: Annotated[str, typer.Argument(metavar="REPO", help="org/repo; made where it is missing.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch, made where it is missing; default: main.")] = None,
) -> None:
    """Check a checkpoint folder and publish it: one commit, or none where it is there already."""
    from madzoo.checkpoint.folder import find_bundled
    from madzoo.hub.push import push

    path = Path(folder)
    found = push(
        path if path.is_dir() else find_bundled(folder) or path, repo.removeprefix(PREFIX), private=private,
        revision=revision,
    )  # fmt: skip
    print_(push_table(found))
    typer.echo(found.url)


def pull(
    repo: Annotated[str, typer.Argument(metavar="REPO[@REVISION]", help="org/repo, at a branch, tag or commit.")],
    cache_dir: Annotated[Path | None, typer.Option(help="Default: the cache of huggingface_hub.")] = None,
) -> None:
    """Fetch a checkpoint folder, verify every file, and print where it is."""
    from madzoo.hub.pull import pull

    typer.echo(str(pull(repo, cache_dir=cache_dir)))


def search(
    query: Annotated[str | None, typer.Argument(metavar="[QUERY]", help="Part of a repository's name.")] = None,
    task: Annotated[str | None, typer.Option(help="image-classification or time-series-forecasting.")] = None,
    author: Annotated[str | None, typer.Option(help="A user or organisation.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many.")] = 20,
) -> None:
    """List checkpoints on the Hub, with what their cards say."""
    from madzoo.hub.search import search

    found = search(query, task=task, author=author, limit=limit)
    if found:
        print_(search_table(found))
    else:
        typer.echo("no checkpoint of this kind is on the Hub, or this account may not see it")
