"""Model cards as HTML: Markdown with HTML switched off, plots copied, links that can harm or lead nowhere taken out."""

import hashlib
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from madzoo.checkpoint.card import CARD_FILE, FRONT_MATTER, MARKER
from madzoo.workflows.leaderboard_libraries import MarkdownIt

__all__ = ["card_html", "copy_plots", "slug_of"]

SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}")
MARKER_LINE = re.compile(rf"^{MARKER.pattern} \S+ -->$\n?", re.MULTILINE)
PLOTS = (".png", ".jpg", ".jpeg", ".webp")  # an SVG may hold a script


def slug_of(name: str, *, taken: Iterable[str] = ()) -> str:
    """Returns a file name for a model's page: its name where that is harmless, else its letters and a hash.

    Args:
        name: the model's.
        taken: slugs of other pages; file systems may not tell upper from lower case.

    Example:
        >>> slug_of("weft_micro_patch4_32.cifar10"), slug_of("../x")
        ('weft_micro_patch4_32.cifar10', 'x-d6b96a97')
    """
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    words = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:80]
    slug = name if SAFE.fullmatch(name) and not name.endswith(".") else f"{words or 'model'}-{digest}"
    used = {other.lower() for other in taken}
    number = 2
    while slug.lower() in used:
        slug, number = f"{words or 'model'}-{digest}-{number}", number + 1
    return slug


def card_html(folder: Path, *, plots: str) -> str | None:
    """Renders a folder's README.md without front matter and first heading; None where there is none.

    Raw HTML becomes text. Links keep the schemes http, https and mailto, and go nowhere else: what a card names by a
    relative path is not part of the site. Pictures are those that lie beside the card.

    Args:
        folder: the checkpoint folder.
        plots: address of the folder that holds its pictures, as the page sees it.
    """
    file = folder / CARD_FILE
    if not file.is_file():
        return None
    text = FRONT_MATTER.sub("", file.read_text(encoding="utf-8", errors="replace"), count=1)
    text = re.sub(r"\A\s*# [^\n]*\n", "", MARKER_LINE.sub("", text))
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(text)
    for token in tokens:
        if token.children:
            token.children = [_made_safe(child, folder, plots) for child in _without_dead_links(token.children)]
    return parser.renderer.render(tokens, parser.options, {})


def copy_plots(folder: Path, target: Path) -> None:
    """Copies the pictures beside a card; a picture that is a link is not followed out of the folder."""
    for picture in _pictures(folder):
        target.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(picture, target / picture.name)


def _pictures(folder: Path) -> list[Path]:
    """A Hub cache keeps files as links into its own blobs; these are followed, others are not."""
    cache = folder.parent.parent / "blobs"
    roots = (folder.resolve(), cache.resolve())
    found = (path for path in sorted(folder.glob("*")) if path.suffix.lower() in PLOTS and path.is_file())
    return [path for path in found if path.resolve().parent in roots]


def _without_dead_links(tokens: list[Any]) -> list[Any]:
    """Leaves out the tags of links that are neither web nor mail addresses; their text stays."""
    kept, open_links = [], []
    for token in tokens:
        if token.type == "link_open":
            open_links.append(_leads_somewhere(str(token.attrGet("href"))))
        drop = token.type in ("link_open", "link_close") and not open_links[-1]
        if token.type == "link_close":
            open_links.pop()
        if not drop:
            kept.append(token)
    return kept


def _leads_somewhere(address: str) -> bool:
    try:
        return urlsplit(address).scheme in ("http", "https", "mailto")
    except ValueError:
        return False


def _made_safe(token: Any, folder: Path, plots: str) -> Any:
    if token.type == "link_open":
        token.attrSet("rel", "noopener noreferrer")
    if token.type == "image":
        source = str(token.attrGet("src"))
        if source in {path.name for path in _pictures(folder)}:
            token.attrSet("src", f"{plots}/{source}")
            token.attrSet("loading", "lazy")
        else:
            token.type, token.content = "text", f"[picture: {token.content}]"
    return token
