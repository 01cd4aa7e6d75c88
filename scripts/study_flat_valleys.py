"""Studies flat valleys and how algorithms move in them, and writes docs/studies/flat_valleys.md.

    python scripts/study_flat_valleys.py [--data-dir DIR] [--runs DIR]     run what --runs lacks; JSON, figures, page
    python scripts/study_flat_valleys.py --render                          figures and page from the JSON alone
    python scripts/study_flat_valleys.py --quick --runs DIR --json FILE --page FILE   does everything run?

The study itself is madzoo/workflows/study_valleys.py; data come from --data-dir, else MADZOO_DATA_DIR, else the Hub. A
study that was stopped goes on from the runs in --runs.
"""

import argparse
from typing import Any

from study_command import StudyCommand, tell

from madzoo.workflows.study_valleys import run_study
from madzoo.workflows.study_valleys_networks import load_pictures
from madzoo.workflows.study_valleys_page import write_page
from madzoo.workflows.study_valleys_protocol import QUICK, Protocol


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Runs what is missing."""
    protocol = QUICK if args.quick else Protocol()
    return run_study(load_pictures(protocol, folder=args.data_dir), protocol, runs=args.runs, tell=tell)


main = StudyCommand(
    description="Studies how algorithms move in flat valleys.", name="flat_valleys", run=run, write_page=write_page
)

if __name__ == "__main__":
    main()
