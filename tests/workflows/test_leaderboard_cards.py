"""Model cards on the leaderboard's pages: rendered, with their plots, and harmless whoever wrote them."""

import pytest

from madzoo.checkpoint.folder import find_bundled
from madzoo.workflows.leaderboard_cards import card_html, copy_plots, slug_of
from madzoo.workflows.leaderboard_chart import AXES, plot_spec
from madzoo.workflows.leaderboard_libraries import data_tables
from madzoo.workflows.leaderboard_page import _closed, _policy


@pytest.fixture
def rendered(tmp_path):
    """Renders a card's text."""

    def rendered(text):
        (tmp_path / "README.md").write_text(text)
        (tmp_path / "plot.png").write_bytes(b"png")
        return card_html(tmp_path, plots="m")

    return rendered


def test_a_bundled_card_is_rendered_with_tables_and_plots():
    found = card_html(find_bundled("weft_micro_patch8_32.cifar10"), plots="m")
    assert "<h2>Geometry</h2>" in found and "<table>" in found and "<pre>" in found
    assert 'src="m/geometry.png"' in found and 'src="m/quantization.png"' in found
    assert "madzoo:begin" not in found and "library_name" not in found and "<h1>" not in found


def test_html_is_text_and_only_web_links_are_links(rendered):
    found = rendered(
        "# title\n\n<script>alert(1)</script>\n\n<b onclick=x>b</b> [a](javascript:alert(1)) [b](docs/x.md) "
        "[c](https://example.org) [d](file:///etc/passwd) [e](data:text/html,x) [f](//host/x)"
    )
    assert "<script" not in found and "<b" not in found and "&lt;script&gt;" in found
    assert found.count("<a ") == 1 and 'href="https://example.org" rel="noopener noreferrer"' in found
    assert "javascript:" not in found.replace("[a](javascript:alert(1))", "")


def test_pictures_come_from_beside_the_card(rendered):
    found = rendered(
        "![near](plot.png) ![far](https://example.org/x.png) ![up](../plot.png) ![data](data:image/png;base64,x)"
    )
    assert found.count("<img") == 1 and 'src="m/plot.png"' in found
    assert "[picture: far]" in found and "example.org" not in found


def test_pictures_that_lead_out_of_the_folder_are_not_copied(tmp_path):
    (tmp_path / "secret").mkdir()
    secret = tmp_path / "secret" / "x.png"
    secret.write_bytes(b"secret")
    folder = tmp_path / "a" / "b" / "card"
    folder.mkdir(parents=True)
    (folder / "x.png").symlink_to(secret)
    (folder / "y.png").write_bytes(b"plot")
    (folder / "z.svg").write_text("<svg/>")
    copy_plots(folder, tmp_path / "site")
    assert [path.name for path in (tmp_path / "site").iterdir()] == ["y.png"]


def test_slugs_are_file_names_of_their_own():
    taken = []
    for name in ("a.b-int4", "A.b-int4", "../a", "a/b", "a b", "", "con<>", "x" * 300):
        taken.append(slug_of(name, taken=taken))
    assert len({slug.lower() for slug in taken}) == len(taken)
    assert taken[0] == "a.b-int4"
    assert all(slug and len(slug) < 130 and "/" not in slug and not slug.startswith(".") for slug in taken)


def test_the_policy_names_every_script_by_its_hash():
    # printf 'alert(1)' | openssl dgst -sha256 -binary | base64
    assert "'sha256-bhHHL3z2vDgxUt0W3dWQOrprscmda2Y5pLsLg4GF+pI='" in _policy(["alert(1)"])
    assert "unsafe-eval" not in _policy([]) and "default-src 'none'" in _policy([])


def test_no_library_ends_its_own_element():
    assert _closed("a</script>b<!--c") == "a<\\/script>b<\\!--c"
    assert "</script" not in _closed(data_tables()) and "window.DataTable = " in data_tables()


@pytest.mark.parametrize("axis", AXES)
def test_a_plot_holds_no_data_and_no_address(axis):
    spec = plot_spec(axis, series=["a", "b"], unit="")
    sets = {one["name"]: one for one in spec["data"]}
    assert {"points", "levels"} <= set(sets) and "values" not in sets["points"]
    assert "http" not in str(spec)
    assert ("log" in {scale["type"] for scale in spec["scales"]}) is AXES[axis][1]
