"""What the benchmarks print: the machine they ran on, Markdown tables, one dot plot."""

import datetime
import importlib.metadata
import os
import platform
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

__all__ = ["Report", "describe_machine", "dot_plot", "geometric_mean", "markdown", "timed_cell"]

PACKAGES = ("torch", "transformers", "mambapy", "assoc-scan", "timm", "statsforecast")
CPUINFO = Path("/proc/cpuinfo")


class Report:
    """Prints paragraphs as they come, and writes all of them into a page at the end, where there is one.

    The page holds a line ``<!-- NAME:begin -->`` and a line ``<!-- NAME:end -->``; what stands between is replaced.

    Raises:
        SystemExit: when the page lacks the markers.
        OSError: when it cannot be read or written.
    """

    def __init__(self, name: str, page: Path | None = None) -> None:
        self.name, self.page, self.paragraphs = name, page, []
        self._split()
        machine = ", ".join(f"{key} {value}" for key, value in describe_machine().items())
        self.tell(f"{machine}. Measured on {datetime.date.today().isoformat()}.")

    def tell(self, paragraph: str) -> None:
        """Prints a paragraph and keeps it."""
        print(paragraph, end="\n\n", flush=True)
        self.paragraphs.append(paragraph)

    def write(self, *, picture: Path | None = None) -> None:
        """Writes what was told into the page, a picture at the end; does nothing without a page."""
        if self.page is None:
            return
        if picture:
            self.tell(f"![The same numbers as a picture]({os.path.relpath(picture, self.page.parent)})")
        before, after = self._split()
        self.page.write_text("\n\n".join([before, *self.paragraphs, after]))

    def _split(self) -> tuple[str, str]:
        """Returns the page up to the first marker, and from the second."""
        if self.page is None:
            return "", ""
        begin, end = (f"<!-- {self.name}:{what} -->" for what in ("begin", "end"))
        before, found, rest = self.page.read_text().partition(begin)
        _, found_end, after = rest.partition(end)
        if not (found and found_end):
            raise SystemExit(f"{self.page} has no lines {begin} and {end}")
        return before + begin, end + after


def describe_machine() -> dict[str, str]:
    """Returns processor, cores, system and the versions of what is measured."""
    cpu = platform.processor()
    if CPUINFO.is_file():
        entries = dict(line.split(":", 1) for line in CPUINFO.read_text().splitlines() if ":" in line)
        entries = {key.strip(): value.strip() for key, value in entries.items()}
        cpu = entries.get("model name", cpu)
        if {"cpu family", "model"} <= entries.keys():
            cpu += f" (family {entries['cpu family']}, model {entries['model']})"
    found = {"processor": cpu, "cores": str(os.cpu_count()), "system": platform.platform(terse=True)}
    found |= {"python": platform.python_version(), "isa": torch.backends.cpu.get_cpu_capability()}
    return found | {name: version for name in PACKAGES if (version := _version(name))}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def markdown(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Returns a Markdown table under a line of its own; the first column is text, the others numbers.

    Example:
        >>> print(markdown("Times", ["path", "ms"], [["a", 1.5]]))
        Times
        <BLANKLINE>
        | path | ms |
        |---|---:|
        | a | 1.5 |
    """
    head = ["| " + " | ".join(columns) + " |", "|---|" + "---:|" * (len(columns) - 1)]
    return "\n".join([title, "", *head, *("| " + " | ".join(map(str, row)) + " |" for row in rows)])


def timed_cell(seconds: float, ratio: float) -> str:
    """Returns milliseconds, and how many times as long as something else that is.

    Example:
        >>> timed_cell(0.1, 50.0)
        '100 (50x)'
    """
    return f"{1e3 * seconds:{'.3g' if seconds < 1 else '.0f'}} ({ratio:.3g}x)"


def geometric_mean(ratios: Sequence[float]) -> float:
    """Returns the geometric mean.

    Example:
        >>> geometric_mean([1.0, 4.0])
        2.0
    """
    return float(torch.tensor(ratios, dtype=torch.float64).log().mean().exp())


def dot_plot(
    path: Path, cases: Mapping[str, Mapping[str, float]], *, label: str, title: str, filled: Collection[str]
) -> None:
    """Draws one row per case and one dot per path, on a logarithmic axis; those in ``filled`` are filled."""
    names = list(dict.fromkeys(name for values in cases.values() for name in values))
    figure = Figure(figsize=(8, 1.4 + 0.45 * len(cases)), dpi=110, layout="constrained")
    axes = figure.subplots()
    for index, name in enumerate(names):
        points = [(values[name], row) for row, values in enumerate(cases.values()) if name in values]
        face = f"C{index % 10}" if name in filled else "none"
        x, y = zip(*points, strict=True)
        axes.scatter(x, y, s=45, marker="osD^v<>ph*"[index % 10], label=name, color=f"C{index % 10}", facecolors=face)
    axes.set(xscale="log", xlabel=label, title=title, yticks=range(len(cases)), yticklabels=list(cases))
    shown = [value for values in cases.values() for value in values.values()]
    few = max(shown) < 1000 * min(shown)  # decades: over many the labels at 2 and 5 would run into each other
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(len(cases) - 0.5, -0.5)
    axes.grid(axis="x", which="both", color="0.9")
    axes.set_axisbelow(True)
    figure.legend(loc="outside right upper", frameon=False, fontsize="small")
    figure.savefig(path, metadata={"Software": None} if path.suffix == ".png" else {"Date": None})
