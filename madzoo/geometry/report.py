"""The geometry report: what a checkpoint may honestly say about its local dimension, as plain JSON."""

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from madzoo.errors import ConfigError
from madzoo.geometry.rank import LocalDimension, local_dimension

__all__ = ["SCHEMA", "GeometryReport", "report", "sample_sha256"]

SCHEMA = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class GeometryReport:
    """States the local dimension of one set of weights on one sample, with all that identifies both.

    The upper bound from counted symmetries is no part of schema 1: beside a row-limited rank stands ``num_params``.

    Attributes:
        local_dimension: the measurement.
        trainable: real parameters that ask for a gradient, of ``local_dimension.num_params``.
        dataset, split, n, seed: where the sample comes from, how many, and the seed that drew it (None: the first n).
        sample_sha256: of the sample itself.
        data_fingerprint: of the data set it was drawn from, None where it has none.
        weights_sha256: of the weight file, None for a module that was not read from one.
        seconds, threads, torch_version: what the measurement cost, and with what.
        schema: version of this record.
    """

    local_dimension: LocalDimension
    trainable: int
    dataset: str
    split: str
    n: int
    seed: int | None
    sample_sha256: str
    data_fingerprint: str | None
    weights_sha256: str | None
    seconds: float
    threads: int
    torch_version: str
    schema: int = SCHEMA

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values, grouped as ``data``, ``params``, ``measured`` and ``cost``."""
        measured = self.local_dimension.to_dict()
        return {
            "schema": self.schema,
            "weights_sha256": self.weights_sha256,
            "output": measured.pop("output"),
            "dtype": measured.pop("dtype"),
            "data": {
                "dataset": self.dataset,
                "split": self.split,
                "n": self.n,
                "seed": self.seed,
                "sha256": self.sample_sha256,
                "fingerprint": self.data_fingerprint,
            },
            "params": {"total": measured.pop("num_params"), "trainable": self.trainable},
            "measured": measured,
            "cost": {"seconds": self.seconds, "threads": self.threads, "torch": self.torch_version},
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "GeometryReport":
        """Builds from the JSON values of :meth:`to_dict`.

        Raises:
            ConfigError: on another schema, or a missing or unknown key.
        """
        if values.get("schema") != SCHEMA:
            raise ConfigError(
                "unknown geometry schema.", asked=values.get("schema"), looked=SCHEMA, todo="upgrade madzoo"
            )
        try:
            data, params, cost = values["data"], values["params"], values["cost"]
            measured = {"output": values["output"], "dtype": values["dtype"], "num_params": params["total"]}
            return cls(
                local_dimension=LocalDimension.from_dict(measured | values["measured"]),
                trainable=params["trainable"],
                dataset=data["dataset"],
                split=data["split"],
                n=data["n"],
                seed=data["seed"],
                sample_sha256=data["sha256"],
                data_fingerprint=data["fingerprint"],
                weights_sha256=values["weights_sha256"],
                seconds=cost["seconds"],
                threads=cost["threads"],
                torch_version=cost["torch"],
            )
        except KeyError as error:
            raise ConfigError(f"a geometry report needs {error}.", asked=sorted(values)) from error


def report(
    model: nn.Module,
    batch: tuple[Tensor, Any],
    *,
    output: str = "logits",
    dataset: str,
    split: str,
    seed: int | None = None,
    weights_sha256: str | None = None,
    data_fingerprint: str | None = None,
    rtol: float | None = None,
    method: str = "auto",
) -> GeometryReport:
    """Measures a network on a sample and records what identifies both.

    Args:
        model: any module; it is copied, never changed.
        batch: (inputs [n, ...], targets); the targets are not looked at.
        output: what is differentiated, see :func:`local_dimension`.
        dataset, split, seed: where the inputs come from.
        weights_sha256, data_fingerprint: hashes of the files behind the model and the data set.
        rtol, method: as :func:`local_dimension`.

    Raises:
        ConfigError, ShapeError, DataError: as :func:`local_dimension`.

    Cost: that of :func:`local_dimension`.
    """
    inputs = batch[0]
    start = time.perf_counter()
    measured = local_dimension(model, inputs, output=output, rtol=rtol, method=method)
    trainable = [p for p in model.parameters() if p.requires_grad]
    return GeometryReport(
        local_dimension=measured,
        trainable=sum(p.numel() * (2 if p.is_complex() else 1) for p in trainable),
        dataset=dataset,
        split=split,
        n=len(inputs),
        seed=seed,
        sample_sha256=sample_sha256(inputs),
        data_fingerprint=data_fingerprint,
        weights_sha256=weights_sha256,
        seconds=round(time.perf_counter() - start, 3),
        threads=torch.get_num_threads(),
        torch_version=torch.__version__,
    )


def sample_sha256(inputs: Tensor) -> str:
    """Hashes a tensor's dtype, shape and bytes (row-major)."""
    array = inputs.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{array.dtype} {tuple(array.shape)}".encode())
    digest.update(array.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
