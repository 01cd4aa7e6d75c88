"""Measures what ``import madzoo`` and the first registry call cost on top of ``import torch``, in fresh processes.

Run it as ``python scripts/bench_import.py``; it prints the median of seven processes in milliseconds.
"""

import statistics
import subprocess
import sys

STEPS = {
    "import madzoo": "import madzoo",
    "madzoo.list_models()": "import madzoo; madzoo.list_models()",
}
PROCESSES = 7


def seconds(statement: str) -> float:
    """Times one statement in a process of its own that has imported torch before."""
    script = f"import time, torch\nstart = time.perf_counter()\n{statement}\nprint(time.perf_counter() - start)"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return float(ran.stdout)


def main() -> None:
    """Prints one line per step."""
    for name, statement in STEPS.items():
        median = statistics.median(seconds(statement) for _ in range(PROCESSES))
        print(f"{name:24} {1000 * median:8.1f} ms on top of torch")


if __name__ == "__main__":
    main()
