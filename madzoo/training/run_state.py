"""The files of a run: a resumable state saved atomically, and a log cut back to it on resume."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import torch

from madzoo.errors import CheckpointError

__all__ = ["RunFiles"]


class RunFiles:
    """Holds ``state.pt`` (everything needed to go on) and ``log.jsonl`` (one line per event) of a run folder.

    The state is written beside its place and moved there in one step, so that a kill at any moment leaves the former
    state whole. It remembers the length of the log; what a killed run logged after its last state is cut away.

    Args:
        folder: of the run; made if absent.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state_path, self.log_path = folder / "state.pt", folder / "log.jsonl"
        folder.mkdir(parents=True, exist_ok=True)

    def save(self, state: dict[str, Any]) -> None:
        """Saves a state of tensors and plain values atomically."""
        partial = self.state_path.with_suffix(f".{os.getpid()}.partial")
        with partial.open("wb") as file:
            torch.save({**state, "log_bytes": self.log_bytes()}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, self.state_path)

    def load(self) -> dict[str, Any] | None:
        """Returns the saved state with the log cut back to it, or None at the start of a run.

        Raises:
            CheckpointError: when the state file cannot be read.
        """
        for leftover in self.folder.glob("state.*.partial"):
            leftover.unlink()
        if not self.state_path.exists():
            self.log_path.unlink(missing_ok=True)
            return None
        try:
            state = torch.load(self.state_path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch.load raises many types on a damaged file
            raise CheckpointError(
                "the saved state of the run is damaged.",
                asked=self.state_path,
                looked=str(error).splitlines()[0],
                todo=f"delete {self.folder} to start anew",
            ) from error
        with contextlib.suppress(FileNotFoundError):
            os.truncate(self.log_path, state["log_bytes"])
        return state

    def log(self, event: dict[str, Any]) -> None:
        """Appends one JSON line."""
        with self.log_path.open("a") as file:
            file.write(json.dumps(event) + "\n")

    def log_bytes(self) -> int:
        """Returns the length of the log."""
        return self.log_path.stat().st_size if self.log_path.exists() else 0
