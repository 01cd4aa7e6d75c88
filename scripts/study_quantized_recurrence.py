"""Rounds two networks that read pictures pixel by pixel, part by part; writes docs/studies/quantized_recurrence.md.

    python scripts/study_quantized_recurrence.py [--data-dir DIR]              train, measure, write JSON, figure, page
    python scripts/study_quantized_recurrence.py --render                      figure and page from the JSON alone
    python scripts/study_quantized_recurrence.py --quick --json FILE --page FILE --runs DIR   does everything run?

Trainings and measured conditions are kept below --runs; a run that was stopped goes on from there. The study itself is
madzoo/workflows/study_sequence.py; data come from --data-dir, else MADZOO_DATA_DIR, else the Hub.
"""

import argparse
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from madzoo.workflows.study_sequence import QUICK, SequenceProtocol, run_study, to_json
from madzoo.workflows.study_sequence_page import write_page
from madzoo.workflows.study_sequence_train import load_pictures

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "studies" / "quantized_recurrence.md"
RUNS = ROOT / "runs" / "quantized_recurrence"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data-dir", type=Path, help="folder of Parquet data sets; else MADZOO_DATA_DIR, else the Hub")
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder of trainings and measured conditions")
    parser.add_argument("--minutes", type=float, default=60.0, help="of measuring per network")
    parser.add_argument("--json", type=Path, default=PAGE.with_suffix(".json"))
    parser.add_argument("--page", type=Path, default=PAGE, help="page between whose markers the numbers are written")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--render", action="store_true", help="do not run anything: read the JSON")
    what.add_argument("--quick", action="store_true", help="few pictures and bits; give other files than the study's")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the study, or reads what it found, and writes the page."""
    args = parse(arguments)
    if args.quick and (args.json == PAGE.with_suffix(".json") or args.runs == RUNS):
        raise SystemExit("--quick would overwrite the study: give --json, --page and --runs")
    if not args.render:
        protocol = QUICK if args.quick else SequenceProtocol()
        pictures = load_pictures(protocol.recipe, folder=args.data_dir)
        args.runs.mkdir(parents=True, exist_ok=True)
        tell = partial(print, flush=True)
        study = run_study(pictures, protocol, args.runs, minutes=args.minutes, tell=tell)
        args.json.write_text(to_json(study))
    write_page(json.loads(args.json.read_text()), args.page)


if __name__ == "__main__":
    main()
