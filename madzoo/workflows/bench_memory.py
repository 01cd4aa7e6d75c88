"""The process that :func:`madzoo.workflows.bench.measure_memory` starts: measures one setup, prints MiB, and ends.

``python -m madzoo.workflows.bench_memory '{"model": "vim_tiny_patch16_224"}' THREADS``
"""

import json
import sys

import torch

from madzoo.workflows.bench_step import BenchSetup, memory_of, prepare

if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[2]))
    sys.stdout.write(f"{json.dumps(memory_of(prepare(BenchSetup(**json.loads(sys.argv[1])))))}\n")
