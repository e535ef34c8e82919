"""Every link, anchor and picture of the pages leads somewhere, within the repository."""

import re
from collections.abc import Iterator

import pytest
from pages import FENCE, PAGES, REPOSITORY, page_of

ALL = [*PAGES, "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"]
LINK = re.compile(r"\]\(\s*<?([^\s)>]+)>?[^)]*\)|^\[[^\]]+\]:\s+(\S+)|\b(?:href|src)=\"([^\"]+)\"", re.MULTILINE)


def prose(page: str) -> str:
    """Returns a page without its code."""
    text = FENCE.sub("", page_of(page))
    text = re.sub(r"(?<=\n\n)(?: {4}.*\n+)+", "\n", text)
    return re.sub(r"(`+).+?\1", "", text)


def links(page: str) -> Iterator[tuple[str, str]]:
    """Yields the links of a page within the repository: a path and an anchor, each of which may be empty."""
    for found in LINK.finditer(prose(page)):
        target = next(filter(None, found.groups()))
        if not re.match(r"[a-z]+:", target):
            path, _, anchor = target.partition("#")
            yield path, anchor


def anchors(page: str) -> set[str]:
    """Returns the anchors of a page's headings, as GitHub and the site make them."""
    text = FENCE.sub("", page_of(page))
    titles = re.findall(r"^#+ (.+?)\s*$", text, re.MULTILINE)
    words = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).lower() for title in titles]
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in words}


def trouble(page: str) -> Iterator[str]:
    """Yields a sentence about each link that leads nowhere."""
    for path, anchor in links(page):
        target = (REPOSITORY / page).parent / path if path else REPOSITORY / page
        if not target.exists():
            yield f"{page} links to {path}, which does not exist"
        elif anchor and anchor not in anchors(str(target.resolve().relative_to(REPOSITORY))):
            yield f"{page} links to {path}#{anchor}, but no heading there has this anchor"


@pytest.mark.parametrize("page", ALL)
def test_links_lead_somewhere(page: str) -> None:
    assert list(trouble(page)) == []


def test_a_wrong_link_is_noticed(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("test_links.REPOSITORY" if __name__ == "test_links" else f"{__name__}.REPOSITORY", tmp_path)
    monkeypatch.setattr("pages.REPOSITORY", tmp_path)
    (tmp_path / "b.md").write_text("# The `first` title: a, b\n")
    lines = ["[x](b.md#the-first-title-a-b)", "[x](b.md#other)", "![x](c.png)", '<img src="d.png">', "`[x](e.md)`"]
    (tmp_path / "a.md").write_text(
        "\n".join([*lines, "```", "[x](f.md)", "```", "[x](https://a.b/c)", "[x][y]", "", "[y]: g.md"])
    )
    found = [line.removeprefix("a.md links to ").split(",")[0] for line in trouble("a.md")]
    assert found == ["b.md#other", "c.png", "d.png", "g.md"]
