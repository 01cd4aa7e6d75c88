"""Checkpoints on the Hub that name madzoo as their library, with what their cards say."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from huggingface_hub import ModelInfo

from madzoo.checkpoint.resolve import REPO
from madzoo.errors import ConfigError, HubError, check_choice
from madzoo.hub.client import connect, translated
from madzoo.registry import TASKS

__all__ = ["LIBRARY", "Found", "search"]

LIBRARY = "madzoo"


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """Holds what the Hub lists of a repository; what its card does not say is None or empty.

    Attributes:
        repo: ``org/repo``; ``hf-hub:org/repo`` is what ``create_model`` takes.
        commit: the newest of its default branch.
        name: the ``arch.tag`` its results are for.
        task: one of :data:`madzoo.registry.TASKS`, as the card says.
        num_params: of the float model.
        local_dimension: as the card writes it, a number or a bound.
        licence: of the weights.
        metrics: data set -> metric -> value.
        tags: all of them.
        private, gated: whether everybody may see it, and whether terms must be accepted first.
        downloads, likes: as the Hub counts them.
    """

    repo: str
    commit: str | None
    name: str | None
    task: str | None
    num_params: int | None
    local_dimension: int | str | None
    licence: str | None
    metrics: Mapping[str, Mapping[str, float]]
    tags: tuple[str, ...]
    private: bool
    gated: bool
    downloads: int | None
    likes: int | None


def search(
    query: str | None = None,
    *,
    task: str | None = None,
    author: str | None = None,
    tags: Sequence[str] = (),
    limit: int | None = 100,
) -> list[Found]:
    """Lists the repositories of the Hub that are tagged ``madzoo``; all pages are followed.

    Args:
        query: a part of the repository's name.
        task: ``"image-classification"`` or ``"time-series-forecasting"``; None: both.
        author: a user or organisation.
        tags: further tags, all of which must be there; an architecture is one of them.
        limit: at most so many; None: all.

    Raises:
        ConfigError: on an unknown task, or an ill-typed argument.
        HubError: when the Hub refuses, or cannot be reached.
    """
    if task is not None:
        check_choice("task", task, TASKS)
    _check_words(query=query, author=author, tags=tags)
    if limit is not None and (type(limit) is not int or limit < 1):
        raise ConfigError("a limit is a positive number.", asked=f"{limit=}", todo="limit=None for all")
    asked = f"search the Hub for {query or 'everything'} of {LIBRARY}"
    api = connect(HubError, asked=asked)
    with translated(HubError, asked=asked):
        found = api.list_models(
            filter=[LIBRARY, *tags],
            search=query,
            author=author,
            pipeline_tag=task,
            limit=limit,
            full=True,
            cardData=True,
        )
        return [_read(info) for info in found if _is_repo(info)]


def _check_words(*, tags: object, **words: object) -> None:
    for name, word in words.items():
        if word is not None and (not isinstance(word, str) or not word):
            raise ConfigError(f"{name} is a word.", asked=f"{name}={word!r}")
    if isinstance(tags, str) or not isinstance(tags, Sequence) or not all(isinstance(tag, str) for tag in tags):
        raise ConfigError("tags is a list of words.", asked=f"{tags=}")


def _is_repo(info: ModelInfo) -> bool:
    """Leaves out what could not be typed after ``hf-hub:``."""
    return bool(REPO.fullmatch(info.id))


def _read(info: ModelInfo) -> Found:
    card = info.card_data.to_dict() if info.card_data else {}
    geometry = next(iter(_dicts([card.get("geometry")])), {})
    results = _results(card)
    return Found(
        repo=info.id,
        commit=info.sha,
        name=next((str(model["name"]) for model in results if "name" in model), None),
        task=info.pipeline_tag or card.get("pipeline_tag"),
        num_params=_of(geometry.get("num_params"), int),
        local_dimension=_of(geometry.get("local_dimension"), int, str),
        licence=_of(card.get("license"), str),
        metrics=_metrics(results),
        tags=tuple(info.tags or ()),
        private=bool(info.private),
        gated=bool(info.gated),
        downloads=info.downloads,
        likes=info.likes,
    )


def _results(card: Mapping[str, Any]) -> list[dict[str, Any]]:
    index = card.get("model-index")
    return [model for model in index if isinstance(model, dict)] if isinstance(index, list) else []


def _metrics(results: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Reads the metrics of a model-index; anybody may have written it, so that what does not fit is left out."""
    found: dict[str, dict[str, float]] = {}
    for result in (inner for model in results for inner in _dicts(model.get("results"))):
        dataset = result.get("dataset")
        label = dataset.get("name") if isinstance(dataset, dict) else None
        for metric in _dicts(result.get("metrics")):
            name, value = metric.get("name") or metric.get("type"), metric.get("value")
            if isinstance(label, str) and isinstance(name, str) and isinstance(value, int | float):
                found.setdefault(label, {})[name] = float(value)
    return found


def _dicts(values: Any) -> list[dict[str, Any]]:
    return [value for value in values if isinstance(value, dict)] if isinstance(values, list) else []


def _of(value: Any, *kinds: type) -> Any:
    return value if type(value) in kinds else None
