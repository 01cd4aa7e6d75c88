"""``madzoo forecast``: a user's table, its columns, and what is known beside the past."""

from pathlib import Path
from typing import Annotated

import typer

from madzoo.cli_parts import print_
from madzoo.tables import forecast_table

__all__ = ["forecast"]


def forecast(
    file: Annotated[Path, typer.Argument(metavar="CSV_OR_PARQUET", help="A table of one or many series.")],
    prediction_length: Annotated[
        int | None, typer.Option("--prediction-length", "--horizon", help="Steps to forecast; default: the model's.")
    ] = None,
    model: Annotated[str, typer.Option(help="Name of a forecaster.")] = "forecast-default",
    timestamp: Annotated[
        str, typer.Option(help="The column of time stamps, where its name does not say so.")
    ] = "timestamp",
    id_: Annotated[str, typer.Option("--id", help="The column that names the series of a long table.")] = "item_id",
    target: Annotated[list[str] | None, typer.Option(help="A column to forecast, repeatable; default: all.")] = None,
    freq: Annotated[
        str | None, typer.Option(help="The step: h, D, W-SUN, MS, ...; default: found in the table.")
    ] = None,
    level: Annotated[
        list[float] | None, typer.Option(help="A quantile level, repeatable; default: 0.1 to 0.9, or the model's own.")
    ] = None,
    seasonality: Annotated[
        int | None, typer.Option(help="Steps of a season, for models that ask; default: the usual for the step.")
    ] = None,
    future: Annotated[
        Path | None,
        typer.Option(metavar="CSV_OR_PARQUET", help="The steps to forecast, with what is known of them beforehand."),
    ] = None,
    past_covariate: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A column known as long as the target, repeatable.")
    ] = None,
    static_covariate: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A column with one value a series, repeatable.")
    ] = None,
    covariate_regression: Annotated[
        bool, typer.Option("--covariate-regression", help="Use --future by a regression, with any model.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder for the CSV and the PNG.")] = Path(),
) -> None:
    """Forecast every series of a table; write the forecast as CSV and its picture as PNG."""
    from madzoo.workflows.forecast import forecast_file

    out.mkdir(parents=True, exist_ok=True)
    csv, png = (out / f"{file.stem}_forecast.{kind}" for kind in ("csv", "png"))
    found = forecast_file(
        file, model=model, prediction_length=prediction_length, quantile_levels=level or None,
        timestamp_column=timestamp, id_column=id_, target=target or None, csv=csv, png=png,
        future=future, seasonality=seasonality, past_covariates=past_covariate or (),
        static_covariates=static_covariate or (), covariate_regression=covariate_regression,
        freq=int(freq) if freq is not None and freq.isdecimal() else freq,
    )  # fmt: skip
    print_(forecast_table(found, title=f"{file.name}, {model}"))
    typer.echo(f"{csv}\n{png}")
