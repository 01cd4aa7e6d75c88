"""Two small collections of series under the catalog's file names, beside the made-up images and tables."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

__all__ = ["add_collections"]


def add_collections(data: Path, root: Path) -> Path:
    """Fills a folder with links to the data of :func:`tests.workflows.tiny_data.make_data` and seven series twice."""
    for name in ("fashion_mnist", "ett"):
        (root / name).symlink_to(data / name)
    (root / "m3").mkdir()
    rng = np.random.default_rng(0)
    for part, horizon in (("other", 8), ("yearly", 6)):
        series = [np.abs(rng.normal(size=rng.integers(30, 90)).cumsum() + 50) for _ in range(7)]
        parts = {"train": [x[:-horizon].tolist() for x in series], "test": [x[-horizon:].tolist() for x in series]}
        pq.write_table(pa.table(parts), root / "m3" / f"{part}.parquet")
    return root
