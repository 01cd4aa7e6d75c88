"""A small repository to pull: a checkpoint folder with every kind of file, and two files that nobody may read."""

import os
import pickle
from pathlib import Path

import torch
from tiny_family import trained

from madzoo.checkpoint.folder import write_folder

REPO = "alice/tiny"
ARCH = "test_pulled"
WIDTH = 400
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8


class Bomb:
    """Leaves a mark where its pickle is read."""

    def __init__(self, mark: Path):
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


def made(path: Path, *, seed: int = 0, width: int = WIDTH) -> dict[str, bytes]:
    """Returns the files of a checkpoint folder of a Tiny, made at a path."""
    model = trained(seed, width=width)
    x = torch.arange(32.0).reshape(1, 2, 4, 4)
    golden = (x, model(x).detach())
    state, args = model.state_dict(), {"width": width}
    write_folder(path, architecture=ARCH, model_args=args, pretrained_cfg={}, state=state, golden=golden)
    files = {file.name: file.read_bytes() for file in path.iterdir()}
    card = f"---\nlicense: mit\nlibrary_name: madzoo\n---\n# Seed {seed}\n".encode()
    return files | {"README.md": card, "geometry.png": PNG, ".eval_results/a.yaml": b"[]\n", "results.csv": b""}


def foreign(mark: Path) -> dict[str, bytes]:
    """Returns files that a pull leaves alone; reading the pickle would make a folder at ``mark``."""
    return {"pytorch_model.bin": pickle.dumps(Bomb(mark)), "weights.pth": b"x" * 99, "modeling.py": b"1 / 0\n"}


def read(folder: Path) -> dict[str, bytes]:
    """Returns the files of a folder, by name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
