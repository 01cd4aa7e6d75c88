"""Publishes every checkpoint folder on the Hub, or shows what that would do.

Show:      python scripts/publish.py [--root FOLDER] [--organization NAME]
Publish:   python scripts/publish.py --really [--private]

The same command goes on where a run that failed stopped.
"""

import argparse
import sys
from pathlib import Path

from madzoo.checkpoint.address import ORGANIZATION
from madzoo.cli import prepare
from madzoo.cli_parts import print_
from madzoo.errors import MadzooError
from madzoo.tables import publish_table
from madzoo.workflows.publish import publish


def main() -> None:
    """Prints the plan, and carries it out where that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="holds the checkpoint folders; default: the bundled ones")
    parser.add_argument("--organization", default=ORGANIZATION, help=f"whose repositories; default: {ORGANIZATION}")
    parser.add_argument("--private", action="store_true", help="make new repositories private")
    parser.add_argument("--really", action="store_true", help="push; without it nothing is changed anywhere")
    args = parser.parse_args()
    prepare()
    try:
        steps = publish(
            args.root, organization=args.organization, private=args.private, dry_run=not args.really
        )  # fmt: skip
    except MadzooError as error:
        sys.exit(f"publish: {error}")
    print_(publish_table(steps))
    if not args.really:
        print("Nothing was pushed. Add --really to publish.")


if __name__ == "__main__":
    main()
