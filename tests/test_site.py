"""The documentation site builds without a warning, needs no network, and has the pages of the reference."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pages import REPOSITORY

import mtlkit

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("mkdocs") is None or importlib.util.find_spec("mkdocstrings") is None,
    reason="the packages of the site are not installed (make site)",
)


@pytest.fixture(scope="module")
def site(once) -> Path:
    def build(folder: Path) -> None:
        words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder / "site")]
        done = subprocess.run(
            words, cwd=REPOSITORY, capture_output=True, text=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}
        )
        assert done.returncode == 0, done.stderr

    return once("site", build) / "site"


def test_each_own_class_has_a_page(site: Path) -> None:
    for kind in ("balancers", "tasks", "kinds", "datasets", "encoders", "decoders"):
        registry = getattr(mtlkit, kind.upper())
        own = {name for name in registry.names() if registry.get(name).__module__.startswith("mtlkit.")}
        assert {page.stem for page in (site / "reference" / kind).glob("*.html")} == own


def test_pages_say_what_the_classes_say(site: Path) -> None:
    page = (site / "reference/balancers/cagrad.html").read_text()
    for words in (
        "<td>the radius around the mean",
        "<code>0.5</code>",
        "arXiv 2110.14048</a>",
        "g<sub>0</sub>",
        "../presets.html#famo",
    ):
        assert words in page
    assert "trainer.lr" in (site / "reference/keys.html").read_text()
    commands = (site / "reference/commands.html").read_text()
    assert all(f'id="mtlkit-{words}"' in commands for words in ("train", "compare", "data-show", "data-prepare"))
    assert "steps_per_epoch" in (site / "reference/python.html").read_text()


def test_a_page_loads_nothing_from_the_network(site: Path) -> None:
    """A link may lead anywhere, but no script, style, picture or frame may come from elsewhere."""
    pages = [*site.glob("*.html"), *site.glob("[!g]*/**/*.html")]
    assert len(pages) > 80
    for page in pages:
        loaded = re.findall(
            r"<(?:script|img|iframe|link)\b[^>]*\b(?:src|href)=\"(https?:)?//[^\"]*\"", page.read_text()
        )
        assert not loaded, page


def test_mathematics_is_mathml() -> None:
    from docs_site import on_page_content

    made = on_page_content(r'<span class="arithmatex">\(g_k \le 1\)</span>', None, None, None)
    assert made.startswith("<math")
    assert "<msub><mi>g</mi><mi>k</mi></msub>" in made
    with pytest.raises(ValueError, match="does not know a command"):
        on_page_content(r'<span class="arithmatex">\(\nosuchcommand\)</span>', None, None, None)
