"""``madzoo train``, launchable by torchrun.

One process:   python scripts/train.py scripts/recipes/NAME.yaml
Many:          torchrun --nproc-per-node 4 scripts/train.py scripts/recipes/NAME.yaml
"""

import sys

from madzoo.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "train")
    main()
