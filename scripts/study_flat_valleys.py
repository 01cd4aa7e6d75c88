"""Studies flat valleys and how algorithms move in them, and writes docs/studies/flat_valleys.md.

    python scripts/study_flat_valleys.py [--data-dir DIR] [--runs DIR]     run what --runs lacks; JSON, figures, page
    python scripts/study_flat_valleys.py --render                          figures and page from the JSON alone
    python scripts/study_flat_valleys.py --quick --runs DIR --json FILE --page FILE   does everything run?

The study itself is madzoo/workflows/study_valleys.py; data come from --data-dir, else MADZOO_DATA_DIR, else the Hub. A
study that was stopped goes on from the runs in --runs.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from madzoo.workflows.study_valleys import run_study
from madzoo.workflows.study_valleys_networks import load_pictures
from madzoo.workflows.study_valleys_page import write_page
from madzoo.workflows.study_valleys_protocol import QUICK, Protocol

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "studies" / "flat_valleys.md"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data-dir", type=Path, help="folder of Parquet data sets; else MADZOO_DATA_DIR, else the Hub")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "study_valleys", help="folder of finished runs")
    parser.add_argument("--json", type=Path, default=PAGE.with_suffix(".json"))
    parser.add_argument("--page", type=Path, default=PAGE, help="page between whose markers the numbers are written")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--render", action="store_true", help="do not run anything: read the JSON")
    what.add_argument("--quick", action="store_true", help="few pictures and steps; give other files than the study's")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the study, or reads what it found, and writes the page."""
    args = parse(arguments)
    if args.quick and args.json == PAGE.with_suffix(".json"):
        raise SystemExit("--quick would overwrite the study: give --runs, --json and --page")
    if not args.render:
        protocol = QUICK if args.quick else Protocol()
        data = load_pictures(protocol, folder=args.data_dir)
        study = run_study(data, protocol, runs=args.runs, tell=lambda line: print(line, flush=True))
        args.json.write_text(json.dumps(study, indent=1, allow_nan=False) + "\n")
    write_page(json.loads(args.json.read_text()), args.page)


if __name__ == "__main__":
    main()
