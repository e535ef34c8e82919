"""Writes the page of a comparison, `compare.html`."""

from mtlkit.study.page.page import write_page

__all__ = ["write_page"]
