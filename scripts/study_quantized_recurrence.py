"""Rounds two networks that read pictures pixel by pixel, part by part; writes docs/studies/quantized_recurrence.md.

    python scripts/study_quantized_recurrence.py [--data-dir DIR]              train, measure, write JSON, figure, page
    python scripts/study_quantized_recurrence.py --render                      figure and page from the JSON alone
    python scripts/study_quantized_recurrence.py --quick --json FILE --page FILE --runs DIR   does everything run?

Trainings and measured conditions are kept below --runs; a run that was stopped goes on from there. The study itself is
madzoo/workflows/study_sequence.py; data come from --data-dir, else MADZOO_DATA_DIR, else the Hub.
"""

import argparse
from typing import Any

from study_command import StudyCommand, tell

from madzoo.workflows.study_sequence import QUICK, SequenceProtocol, run_study, to_json
from madzoo.workflows.study_sequence_page import write_page
from madzoo.workflows.study_sequence_train import load_pictures


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Trains and measures what is missing."""
    protocol = QUICK if args.quick else SequenceProtocol()
    pictures = load_pictures(protocol.recipe, folder=args.data_dir)
    args.runs.mkdir(parents=True, exist_ok=True)
    return run_study(pictures, protocol, args.runs, minutes=args.minutes, tell=tell)


def ask_minutes(parser: argparse.ArgumentParser) -> None:
    """Adds the time to measure."""
    parser.add_argument("--minutes", type=float, default=60.0, help="of measuring per network")


main = StudyCommand(
    description="Rounds two networks that read pictures pixel by pixel, part by part.",
    name="quantized_recurrence",
    run=run,
    write_page=write_page,
    options=ask_minutes,
    to_json=to_json,
)

if __name__ == "__main__":
    main()
