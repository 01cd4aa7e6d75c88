"""The command line of the studies: run what is missing and write the page, or draw the page anew from the JSON."""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["ROOT", "StudyCommand", "tell"]

ROOT = Path(__file__).parents[1]


def tell(line: str) -> None:
    """Prints a line of progress at once."""
    print(line, flush=True)


def _to_json(study: dict[str, Any]) -> str:
    return json.dumps(study, indent=1, allow_nan=False) + "\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyCommand:
    """A study as a command.

    Attributes:
        description: one line for ``--help``.
        name: of its page and JSON below docs/studies, and of its folder below runs.
        run: command line -> the study; with ``args.quick`` a small one.
        write_page: (study, page), draws and writes.
        keeps_runs: whether finished runs are kept below ``--runs``, from where a study that was stopped goes on.
        options: adds what this study alone is asked.
        to_json: the study's text.
    """

    description: str
    name: str
    run: Callable[[argparse.Namespace], dict[str, Any]]
    write_page: Callable[[dict[str, Any], Path], None]
    keeps_runs: bool = True
    options: Callable[[argparse.ArgumentParser], object] = lambda parser: None
    to_json: Callable[[dict[str, Any]], str] = _to_json

    def __call__(self, arguments: Sequence[str] | None = None) -> None:
        """Runs the study, or reads what it found, and writes the page.

        Raises:
            SystemExit: when a quick run would overwrite a file of the study's own.
        """
        args = self._parse(arguments)
        if not args.render:
            args.json.write_text(self.to_json(self.run(args)))
        self.write_page(json.loads(args.json.read_text()), args.page)

    def _parse(self, arguments: Sequence[str] | None) -> argparse.Namespace:
        parser = argparse.ArgumentParser(description=self.description)
        parser.add_argument("--data-dir", type=Path, help="folder of Parquet data; else MADZOO_DATA_DIR, else the Hub")
        what = parser.add_mutually_exclusive_group()
        what.add_argument("--render", action="store_true", help="do not run anything: read the JSON")
        what.add_argument("--quick", action="store_true", help="a small study: does everything run?")
        page = ROOT / "docs" / "studies" / f"{self.name}.md"
        files = {
            "--page": (page, "page between whose markers the numbers are written"),
            "--json": (page.with_suffix(".json"), "what was found"),
        }
        if self.keeps_runs:
            files["--runs"] = (ROOT / "runs" / self.name, "folder of finished runs")
        for option, (default, meaning) in files.items():
            parser.add_argument(
                option, type=Path, default=default, help=f"{meaning}; default: {default.relative_to(ROOT)}"
            )
        self.options(parser)
        args = parser.parse_args(arguments)
        kept = [option for option, (default, _) in files.items() if getattr(args, option[2:]) == default]
        if args.quick and kept:
            raise SystemExit(f"--quick would overwrite the study: give {', '.join(kept)}")
        return args
