"""Measures the local dimension of five small networks during training, and writes docs/studies/local_dimension.md.

    python scripts/study_local_dimension.py [--data-dir DIR] [--workers 2]   train, measure, write JSON, figures, page
    python scripts/study_local_dimension.py --render                        figures and page from the JSON alone
    python scripts/study_local_dimension.py --quick --json FILE --page FILE  does everything run?

The study itself is madzoo/workflows/study_dimension.py; data come from --data-dir, else MADZOO_DATA_DIR, else the Hub.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from madzoo.workflows.study_dimension import QUICK, Protocol, load_pictures, run_study
from madzoo.workflows.study_page import write_page

PAGE = Path(__file__).parents[1] / "docs" / "studies" / "local_dimension.md"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data-dir", type=Path, help="folder of Parquet data sets; else MADZOO_DATA_DIR, else the Hub")
    parser.add_argument("--workers", type=int, default=1, help="processes, of one thread each")
    parser.add_argument("--json", type=Path, default=PAGE.with_suffix(".json"))
    parser.add_argument("--page", type=Path, default=PAGE, help="page between whose markers the numbers are written")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--render", action="store_true", help="do not run anything: read the JSON")
    what.add_argument("--quick", action="store_true", help="few pictures and epochs; give other files than the study's")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the study, or reads what it found, and writes the page."""
    args = parse(arguments)
    if args.quick and args.json == PAGE.with_suffix(".json"):
        raise SystemExit("--quick would overwrite the study: give --json and --page")
    if not args.render:
        protocol = QUICK if args.quick else Protocol()
        pictures = load_pictures(protocol, folder=args.data_dir)
        study = run_study(pictures, protocol, workers=args.workers, tell=lambda line: print(line, flush=True))
        args.json.write_text(json.dumps(study, indent=1) + "\n")
    write_page(json.loads(args.json.read_text()), args.page)


if __name__ == "__main__":
    main()
