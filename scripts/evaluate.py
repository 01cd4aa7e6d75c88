"""``madzoo evaluate``, launchable by torchrun: the processes share every benchmark, the first one writes and prints.

One process:   python scripts/evaluate.py NAME --benchmark fev-ett --out results
Many:          torchrun --nproc-per-node 2 scripts/evaluate.py NAME --benchmark fev-ett --out results
"""

import sys

from madzoo.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "evaluate")
    main()
