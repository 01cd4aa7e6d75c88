"""What the files of the command line share: arguments of many commands, and printing."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

__all__ = ["DataDir", "Model", "print_"]

DataDir = Annotated[Path | None, typer.Option(help="Folder of Parquet data sets; else MADZOO_DATA_DIR, else the Hub.")]
Model = Annotated[str, typer.Argument(metavar="NAME", help="arch.tag, hf-hub:org/repo, local-dir:path or timm/name.")]


def print_(*tables: Table) -> None:
    """Prints tables, each after an empty line."""
    console = Console()
    for table in tables:
        console.print("", table)
