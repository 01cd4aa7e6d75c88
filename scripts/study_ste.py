"""Studies the straight-through estimator, and writes docs/studies/straight_through.md.

    python scripts/study_ste.py [--data-dir DIR] [--runs DIR]     run what --runs lacks, write JSON, figures, page
    python scripts/study_ste.py --render                         figures and page from the JSON alone
    python scripts/study_ste.py --quick --runs DIR --json FILE --page FILE   does everything run?

The study itself is madzoo/workflows/study_ste.py; data come from --data-dir, else MADZOO_DATA_DIR, else the Hub. A
study that was stopped goes on from the runs in --runs.
"""

import argparse
from typing import Any

from study_command import StudyCommand, tell

from madzoo.workflows.study_ste import load_rows, run_study
from madzoo.workflows.study_ste_page import write_page
from madzoo.workflows.study_ste_protocol import QUICK, Protocol


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Runs what is missing."""
    protocol = QUICK if args.quick else Protocol()
    return run_study(load_rows(protocol, folder=args.data_dir), protocol, runs=args.runs, tell=tell)


main = StudyCommand(
    description="Studies the straight-through estimator.", name="straight_through", run=run, write_page=write_page
)

if __name__ == "__main__":
    main()
