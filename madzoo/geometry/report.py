"""The geometry report: what a checkpoint may honestly say about its local dimension and flatness, as plain JSON."""

import hashlib
import math
import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from madzoo.errors import ConfigError
from madzoo.geometry.curvature import Curvature, curvature
from madzoo.geometry.effective import SpectrumSummary, summarise_spectrum
from madzoo.geometry.ledger import symmetry_ledger
from madzoo.geometry.ledger_record import SymmetryLedger
from madzoo.geometry.rank import LocalDimension, measure_spectrum
from madzoo.geometry.sampled_loss import Loss

__all__ = ["SCHEMA", "CurvatureSettings", "GeometryReport", "parameter_kinds", "report", "sample_sha256"]

SCHEMA = 2
SPECTRUM_POINTS = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class CurvatureSettings:
    """What the flatness of a report costs and how exact it is; see :func:`madzoo.geometry.curvature`."""

    probes: int = 4
    max_products: int = 16
    tolerance: float = 1e-2
    seed: int = 0
    chunk_size: int = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class GeometryReport:
    """States the geometry of one set of weights on one sample, with all that identifies both.

    Attributes:
        local_dimension: the measured rank.
        ledger: what symmetries, and units dead or always active on the sample, take away.
        effective: how evenly the sample's directions are used, from the singular values of the same Jacobian.
        spectrum: (number, singular value) at some numbers spread evenly over their logarithms, to four digits: enough
            for a plot.
        curvature: flatness of the mean loss on a batch; None where no loss was given.
        trainable: real parameters that ask for a gradient, of ``local_dimension.num_params``.
        dataset, split, n, seed: where the sample comes from, how many, and the seed that drew it (None: the first n).
        sample_sha256: of the sample itself.
        data_fingerprint: of the data set it was drawn from, None where it has none.
        weights_sha256: of the weight file, None for a module that was not read from one.
        seconds, peak_mb, threads, torch_version: what the measurement cost, and with what; ``peak_mb`` is the largest
            memory of the process so far, a bound.
        schema: version of this record.
    """

    local_dimension: LocalDimension
    ledger: SymmetryLedger
    effective: SpectrumSummary
    spectrum: tuple[tuple[int, float], ...]
    curvature: Curvature | None
    trainable: int
    dataset: str
    split: str
    n: int
    seed: int | None
    sample_sha256: str
    data_fingerprint: str | None
    weights_sha256: str | None
    seconds: float
    peak_mb: float
    threads: int
    torch_version: str
    schema: int = SCHEMA

    @property
    def unexplained(self) -> int:
        """What neither symmetries nor inactive units explain: num_params - lost - inactive - rank.

        Where the sample limits the rank this is mostly what too few rows cannot show.
        """
        return self.ledger.upper_bound - self.ledger.inactive - self.local_dimension.rank

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values, grouped as in the class documentation."""
        measured, ledger = self.local_dimension.to_dict(), self.ledger.to_dict()
        output, dtype, total = (measured.pop(key) for key in ("output", "dtype", "num_params"))
        units = {key: ledger.pop(key) for key in ("dead_units", "always_active_units", "patterns")}
        for key in ("num_params", "output"):
            ledger.pop(key)
        return {
            "schema": self.schema,
            "weights_sha256": self.weights_sha256,
            "output": output,
            "dtype": dtype,
            "data": {
                "dataset": self.dataset,
                "split": self.split,
                "n": self.n,
                "seed": self.seed,
                "sha256": self.sample_sha256,
                "fingerprint": self.data_fingerprint,
            },
            "params": {"total": total, "trainable": self.trainable},
            "structural": ledger,
            "measured": measured,
            "effective": _plain(self.effective),
            "spectrum": [list(point) for point in self.spectrum],
            "inactive": {**units, "lost": ledger.pop("inactive")},
            "unexplained": self.unexplained,
            "curvature": self.curvature.to_dict() if self.curvature else None,
            "cost": {
                "seconds": self.seconds,
                "peak_mb": self.peak_mb,
                "threads": self.threads,
                "torch": self.torch_version,
            },
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "GeometryReport":
        """Builds from the JSON values of :meth:`to_dict`.

        Raises:
            ConfigError: on another schema, or a missing or unknown key.
        """
        if values.get("schema") != SCHEMA:
            raise ConfigError(
                "another geometry schema.",
                asked=values.get("schema"),
                looked=SCHEMA,
                todo="madzoo card NAME measures an older one anew; for a newer one upgrade madzoo",
            )
        try:
            return cls(**_fields(values))
        except (KeyError, TypeError) as error:
            raise ConfigError(f"not a geometry report: {error}.", asked=sorted(values)) from error


def _fields(values: Mapping[str, Any]) -> dict[str, Any]:
    data, params, cost = values["data"], values["params"], values["cost"]
    named = {"output": values["output"], "num_params": params["total"]}
    inactive = {key: value for key, value in values["inactive"].items() if key != "lost"}
    bent = values["curvature"]
    return {
        "local_dimension": LocalDimension.from_dict(named | {"dtype": values["dtype"]} | values["measured"]),
        "ledger": SymmetryLedger.from_dict(named | inactive | values["structural"]),
        "effective": SpectrumSummary(**values["effective"]),
        "spectrum": tuple((int(k), float(sigma)) for k, sigma in values["spectrum"]),
        "curvature": Curvature.from_dict(bent) if bent else None,
        "trainable": params["trainable"],
        "dataset": data["dataset"],
        "split": data["split"],
        "n": data["n"],
        "seed": data["seed"],
        "sample_sha256": data["sha256"],
        "data_fingerprint": data["fingerprint"],
        "weights_sha256": values["weights_sha256"],
        "seconds": cost["seconds"],
        "peak_mb": cost["peak_mb"],
        "threads": cost["threads"],
        "torch_version": cost["torch"],
    }


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
    loss_fn: Loss | None = None,
    curvature_batch: tuple[Tensor, Any] | None = None,
    settings: CurvatureSettings = CurvatureSettings(),
) -> GeometryReport:
    """Measures a network on a sample and records what identifies both.

    Args:
        model: any module; it is copied, never changed.
        batch: (inputs [n, ...], targets); the targets matter to the loss alone.
        output: what is differentiated, see :func:`local_dimension`.
        dataset, split, seed: where the inputs come from.
        weights_sha256, data_fingerprint: hashes of the files behind the model and the data set.
        rtol, method: as :func:`local_dimension`.
        loss_fn: (outputs, targets) -> mean loss, whose curvature is measured; None leaves the curvature out.
        curvature_batch: measured on instead of ``batch``, for instance more samples than a Jacobian may have.
        settings: of the curvature.

    Raises:
        ConfigError, ShapeError, DataError: as :func:`local_dimension` and :func:`symmetry_ledger`.
        SymmetryError: when a module declares a symmetry that is none.

    Cost: that of :func:`local_dimension`, :func:`symmetry_ledger` and :func:`curvature`.
    """
    inputs = batch[0]
    start = time.perf_counter()
    measured, sigma = measure_spectrum(model, inputs, output=output, rtol=rtol, method=method)
    ledger = symmetry_ledger(model, inputs, output=output)
    bent = _curvature(model, curvature_batch or batch, loss_fn, settings) if loss_fn else None
    trainable = [p for p in model.parameters() if p.requires_grad]
    return GeometryReport(
        local_dimension=measured,
        ledger=ledger,
        effective=summarise_spectrum(sigma.square(), num_params=measured.num_params),
        spectrum=_thinned(sigma),
        curvature=bent,
        trainable=sum(p.numel() * (2 if p.is_complex() else 1) for p in trainable),
        dataset=dataset,
        split=split,
        n=len(inputs),
        seed=seed,
        sample_sha256=sample_sha256(inputs),
        data_fingerprint=data_fingerprint,
        weights_sha256=weights_sha256,
        seconds=round(time.perf_counter() - start, 3),
        peak_mb=round(_peak_mb(), 1),
        threads=torch.get_num_threads(),
        torch_version=torch.__version__,
    )


def parameter_kinds(model: nn.Module) -> dict[str, list[str]]:
    """Groups parameters by the last two parts of their names: the same tensor of every block is one kind."""
    kinds: dict[str, list[str]] = {}
    for name, _ in model.named_parameters():
        parts = [part for part in name.split(".") if not part.isdigit()]
        kinds.setdefault(".".join(parts[-2:]), []).append(name)
    return kinds


def sample_sha256(inputs: Tensor) -> str:
    """Hashes a tensor's dtype, shape and bytes (row-major)."""
    array = inputs.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{array.dtype} {tuple(array.shape)}".encode())
    digest.update(array.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _curvature(model: nn.Module, batch: tuple[Tensor, Any], loss_fn: Loss, settings: CurvatureSettings) -> Curvature:
    return curvature(
        model,
        batch,
        loss_fn,
        groups=parameter_kinds(model),
        probes=settings.probes,
        seed=settings.seed,
        tolerance=settings.tolerance,
        max_products=settings.max_products,
        chunk_size=settings.chunk_size,
        microbatch=1 if len(batch[0]) > 1 else None,
    )


def _thinned(sigma: Tensor) -> tuple[tuple[int, float], ...]:
    if not len(sigma):
        return ()
    numbers = torch.logspace(0, math.log10(len(sigma)), SPECTRUM_POINTS, dtype=torch.float64).round().long().unique()
    return tuple((int(k), float(f"{float(sigma[k - 1]):.4g}")) for k in numbers)


def _plain(summary: SpectrumSummary) -> dict[str, Any]:
    keys = ("stable_rank", "participation_ratio", "entropy_rank", "epsilon_rank", "num_params", "lambda_max", "trace")
    return {key: getattr(summary, key) for key in keys}


def _peak_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
