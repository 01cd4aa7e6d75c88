"""Where a checkpoint folder may stand, and how it takes the place of an older one: made whole beside it, then moved in.

What the older folder says of its weights (reports, pictures, card) goes when they go. It is told from the hash in it,
not from what was done last, so that a repeat mends a folder that was left half replaced.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from madzoo.checkpoint.card import CARD_FILE
from madzoo.checkpoint.card_blocks import GEOMETRY_PLOT
from madzoo.checkpoint.card_sensitivity import QUANTIZATION_PLOT
from madzoo.checkpoint.folder import CONFIG_FILE, GOLDEN_FILE, WEIGHTS_FILE, find_bundled, read_folder
from madzoo.checkpoint.guard import refusing
from madzoo.checkpoint.packed import read_packing
from madzoo.checkpoint.report_files import EVALUATION_FILE, GEOMETRY_FILE, QUANTIZATION_FILE, read_report
from madzoo.checkpoint.weights import read_metadata
from madzoo.errors import CheckpointError, ConfigError

__all__ = ["check_place", "keep_reports", "publish", "staged"]

REPORTS: dict[str, tuple[str, ...]] = {
    EVALUATION_FILE: (), GEOMETRY_FILE: (GEOMETRY_PLOT,), QUANTIZATION_FILE: (QUANTIZATION_PLOT,),
}  # fmt: skip
RESULTS = ".eval_results"  # of write_card
# As they are moved: a folder whose configuration is missing or states another hash is refused, whatever else it holds.
LOADED = (WEIGHTS_FILE, GOLDEN_FILE, CONFIG_FILE)
TOLD = (*REPORTS, *(picture for pictures in REPORTS.values() for picture in pictures), CARD_FILE)


def check_place(out: Path, *, name: str, packed: bool, source: Path | None, source_name: str | None) -> None:
    """Refuses a folder that is not for these weights: that of the start, or one that holds anything else.

    Args:
        out: the folder to write.
        name: ``arch.tag`` of what is to be written.
        packed: whether it will hold codes in place of floats.
        source: the folder of the weights to start from; None where they are in none.
        source_name: their ``arch.tag``, whose bundled folder is refused too.

    Raises:
        ConfigError: when the folder holds other weights than of this name and kind, or files of some other kind that
            would be replaced.
        CheckpointError: when its configuration or a report of it is damaged.
    """
    with refusing(ConfigError, "the folder to write cannot be looked at", asked=out, todo="another --out"):
        target = out.resolve()
        for folder in (source, find_bundled(source_name) if source_name else None):
            if folder is not None and _is_in(target, folder):
                raise ConfigError(
                    "the folder to write is that of the weights to start from, or inside it.", asked=out,
                    resolved=folder, todo="another --out",
                )  # fmt: skip
        if target.exists() and not target.is_dir():
            raise ConfigError("the folder to write is a file.", asked=out, todo="another --out")
        found = _holds(target, name, packed=packed)
    if found is not None:
        raise ConfigError(
            f"the folder to write holds {found}.", asked=f"{out} for {name}", resolved=target,
            todo="another --out, or remove the folder",
        )  # fmt: skip
    for report in REPORTS:
        read_report(target, report)


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """Yields an empty folder beside ``out`` to make the new one in; it is removed in the end.

    Raises:
        CheckpointError: when it cannot be written.
    """
    target = out.resolve()
    stage = target.with_name(f".{target.name}.partial")
    shutil.rmtree(stage, ignore_errors=True)  # of a run that was killed
    with _writing(out):
        stage.mkdir(parents=True)
    try:
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def keep_reports(out: Path, stage: Path) -> None:
    """Copies those reports of ``out``, with their pictures, that are about the weights in ``stage``.

    Raises:
        CheckpointError: when a report is damaged, or the copy cannot be written.
    """
    sha256 = read_folder(stage).sha256
    for name, pictures in REPORTS.items():
        if (read_report(out, name) or {}).get("weights_sha256") == sha256:
            with _writing(out):
                for file in (name, *(picture for picture in pictures if (out / picture).is_file())):
                    shutil.copyfile(out / file, stage / file)


def publish(stage: Path, out: Path) -> tuple[str, ...]:
    """Moves a finished folder to its place; of an older one stay the files that no checkpoint folder has.

    Returns:
        The reports that went with the older weights.

    Raises:
        CheckpointError: when the folder cannot be written.
    """
    target = out.resolve()
    dropped = tuple(name for name in REPORTS if (target / name).exists() and not (stage / name).exists())
    with _writing(out):
        if not target.exists():
            stage.rename(target)
            return ()
        for name in (*LOADED, *_results(target, stage), *TOLD):
            if (stage / name).exists():
                (target / name).parent.mkdir(exist_ok=True)
                (stage / name).replace(target / name)
            else:
                (target / name).unlink(missing_ok=True)
    return dropped


def _holds(target: Path, name: str, *, packed: bool) -> str | None:
    """Says what stands in the way; None where nothing does, or weights of this name and kind."""
    if (target / CONFIG_FILE).exists():
        config = read_folder(target).config
        is_packed = config.quantization is not None
        if config.architecture == name and is_packed == packed:
            return None
        return f"the {'packed' if is_packed else 'float'} weights {config.architecture}"
    weights = target / WEIGHTS_FILE
    if weights.exists():  # without a configuration: of this name only if a run was killed between the two
        is_packed = read_packing(weights) is not None
        is_older = read_metadata(weights).get("architecture") == name and is_packed == packed
        return None if is_older else f"other weights, {WEIGHTS_FILE}"
    return next((file for file in (GOLDEN_FILE, *TOLD) if (target / file).exists()), None)


def _is_in(target: Path, folder: Path) -> bool:
    """Whether a path is a folder or inside it, whatever the two are called."""
    return any(path.exists() and path.samefile(folder) for path in (target, *target.parents))


def _results(*folders: Path) -> list[str]:
    return sorted({f"{RESULTS}/{path.name}" for folder in folders for path in (folder / RESULTS).glob("*.yaml")})


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    todo = "a writable folder with free space; the same command again mends the folder"
    with refusing(CheckpointError, f"{out} cannot be written", asked=out, todo=todo):
        yield
