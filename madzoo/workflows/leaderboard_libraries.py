"""The libraries of the leaderboard's pages, imported in one place, so that one error says how to get them."""

from functools import cache
from pathlib import Path

from madzoo.errors import BackendError

try:
    import altair
    import itables
    import jinja2
    import vl_convert
    from markdown_it import MarkdownIt
except ModuleNotFoundError as error:
    raise BackendError(
        f"the leaderboard's pages need {error.name}, which is not installed.",
        asked="madzoo leaderboard",
        todo='pip install "madzoo[leaderboard]"',
    ) from error

__all__ = [
    "MarkdownIt",
    "altair",
    "data_tables",
    "jinja2",
    "plot_versions",
    "table_version",
    "vega_embed",
    "vl_convert",
]


@cache
def data_tables() -> str:
    """Returns the text of the module that defines DataTables, and makes it the page's ``DataTable``.

    Raises:
        BackendError: when the installed itables carries no such module.
    """
    text = (Path(itables.__file__).parent / "html" / "dt_bundle.js").read_text(encoding="utf-8")
    before, _, after = text.rpartition("export{")
    pairs = (part.partition(" as ") for part in after.partition("}")[0].split(","))
    names = {outside: inside for inside, _, outside in pairs}
    if not before or "default" not in names:
        raise BackendError(
            "this version of itables exports no DataTables.", asked=f"itables {itables.__version__}", todo="itables 2.9"
        )
    return f"{text}\n;window.DataTable = {names['default']};\n"


@cache
def vega_embed() -> str:
    """Returns the text of a module that defines the page's ``vegaEmbed``, Vega and its interpreter included."""
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")


def table_version() -> str:
    """Returns the version of itables."""
    return str(itables.__version__)


def plot_versions() -> dict[str, str]:
    """Returns the versions of what draws the plot."""
    return {"altair": str(altair.__version__), "vega": str(vl_convert.get_vega_version())}
