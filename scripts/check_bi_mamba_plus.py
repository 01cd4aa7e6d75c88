"""Scores the published Bi-Mamba+ weights for weather as their authors did, and as it should be.

Their test loader takes batches of 32 and drops the last, smaller one; here every window is also counted. The weights
carry no licence and are in no package: those for 96 steps are read from ``weights/bimamba4ts_weather_96_96`` of the
data folder, those for 192, 336 and 720 from a file of the authors' repository, Leopold2333/Bi-Mamba4TS.

    MADZOO_DATA_DIR=... python scripts/check_bi_mamba_plus.py
    MADZOO_DATA_DIR=... python scripts/check_bi_mamba_plus.py --horizon 192 --weights .../checkpoint.pth
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from madzoo.data.catalog import data_dir, find_dataset
from madzoo.data.load import load_table
from madzoo.data.windows import Borders, Windows, split_windows
from madzoo.errors import DataError
from madzoo.factory import create_model
from madzoo.layers.forecaster import Forecaster

__all__ = ["PUBLISHED", "Score", "errors_of_windows", "score", "weather_windows"]

PUBLISHED = {  # horizon: (MSE, MAE) of results/2024/weather(M)_96_*_loss(mse) of Leopold2333/Bi-Mamba4TS
    96: (0.158915, 0.207051),
    192: (0.208332, 0.251101),
    336: (0.264145, 0.293359),
    720: (0.341665, 0.342356),
}
BATCH_SIZE = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """Holds the mean squared and absolute error over n windows, of z-scores."""

    n: int
    mse: float
    mae: float


def weather_windows(folder: Path | None = None, *, horizon: int = 96) -> Windows:
    """Returns the test windows of weather: the last 20 % of the rows, z-scored by the first 70 %."""
    table = load_table(find_dataset("weather"), folder=folder)
    values = torch.tensor(table.iloc[:, 1:].to_numpy("float64"))
    return split_windows(values, Borders.from_ratio(len(values)), "test", context_length=96, prediction_length=horizon)


@torch.no_grad()
def errors_of_windows(model: Forecaster, windows: Windows, *, through_predict: bool = False) -> Tensor:
    """Returns the mean squared and absolute error of every window, [N, 2].

    Args:
        model: the forecaster.
        windows: what it is asked.
        through_predict: ask :meth:`Forecaster.predict`, which standardises each channel by its context, in place of
            the published function of z-scores.
    """
    rows = []
    for index in torch.arange(len(windows)).split(BATCH_SIZE):
        past, future = windows[index]
        quantiles = model.predict(past)[0] if through_predict else model(past)
        error_BHC = (quantiles[..., 0] - future).double()
        rows.append(torch.stack([error_BHC.square().mean((1, 2)), error_BHC.abs().mean((1, 2))], dim=1))
    return torch.cat(rows)


def score(errors_Nx2: Tensor, *, drop_last: bool) -> Score:
    """Averages over windows; with ``drop_last`` over those in whole batches of 32, as the authors' loader does."""
    kept = errors_Nx2[: len(errors_Nx2) // BATCH_SIZE * BATCH_SIZE] if drop_last else errors_Nx2
    mse, mae = kept.mean(0).tolist()
    return Score(n=len(kept), mse=mse, mae=mae)


def main() -> None:
    """Prints the published score beside ours, with and without the dropped windows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="folder of Parquet data sets and weights; else MADZOO_DATA_DIR")
    parser.add_argument("--horizon", type=int, default=96, choices=PUBLISHED, help="steps of the future")
    parser.add_argument("--weights", type=Path, help="the authors' file; else that of 96 steps in the data folder")
    parser.add_argument("--through-predict", action="store_true", help="also score predict(), which standardises first")
    args = parser.parse_args()
    folder = data_dir(args.data_dir)
    weights = args.weights or _in_folder(folder, args.horizon)
    model = create_model(f"bi_mamba_plus_small_patch4_96_{args.horizon}", checkpoint_path=weights).eval()
    assert isinstance(model, Forecaster)
    windows = weather_windows(folder, horizon=args.horizon)
    errors_Nx2 = errors_of_windows(model, windows)
    rows = {
        "authors' protocol": score(errors_Nx2, drop_last=True),
        "every window": score(errors_Nx2, drop_last=False),
    }
    if args.through_predict:
        errors_Nx2 = errors_of_windows(model, windows, through_predict=True)
        rows["every window, through predict"] = score(errors_Nx2, drop_last=False)
    mse, mae = PUBLISHED[args.horizon]
    print(f"published: MSE {mse:.6f}, MAE {mae:.6f}")
    for name, row in rows.items():
        print(f"{name}: MSE {row.mse:.6f}, MAE {row.mae:.6f}, n = {row.n}")


def _in_folder(folder: Path | None, horizon: int) -> Path:
    if folder is None or horizon != 96:
        raise DataError(
            f"the data folder holds no weights for {horizon} steps.",
            asked=f"horizon {horizon}, data folder {folder}",
            todo="MADZOO_DATA_DIR for 96 steps; --weights FILE for any",
        )
    return folder / "weights" / "bimamba4ts_weather_96_96" / "model.safetensors"


if __name__ == "__main__":
    main()
