"""Measures the local dimension of five small networks during training, and writes docs/studies/local_dimension.md.

    python scripts/study_local_dimension.py [--data-dir DIR] [--workers 2]   train, measure, write JSON, figures, page
    python scripts/study_local_dimension.py --render                        figures and page from the JSON alone
    python scripts/study_local_dimension.py --quick --json FILE --page FILE  does everything run?

The study itself is madzoo/workflows/study_dimension.py; data come from --data-dir, else MADZOO_DATA_DIR, else the Hub.
"""

import argparse
from typing import Any

from study_command import StudyCommand, tell

from madzoo.workflows.study_dimension import QUICK, Protocol, load_pictures, run_study
from madzoo.workflows.study_page import write_page


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Trains and measures."""
    protocol = QUICK if args.quick else Protocol()
    return run_study(load_pictures(protocol, folder=args.data_dir), protocol, workers=args.workers, tell=tell)


def ask_workers(parser: argparse.ArgumentParser) -> None:
    """Adds the number of processes."""
    parser.add_argument("--workers", type=int, default=1, help="processes, of one thread each")


main = StudyCommand(
    description="Measures the local dimension of five small networks during training.",
    name="local_dimension",
    run=run,
    write_page=write_page,
    keeps_runs=False,
    options=ask_workers,
)

if __name__ == "__main__":
    main()
