"""The pages of docs/ that `mtlkit list KIND --markdown` makes."""

from mtlkit.balancer import BALANCERS
from mtlkit.cli import catalog, preset_page


def page(kind: str) -> str:
    """Returns the page of a kind. Raises `ValueError` for a kind without one."""
    pages = {"balancers": lambda: catalog.markdown(BALANCERS.names()), "presets": preset_page.markdown}
    if kind not in pages:
        raise ValueError(f"--markdown works only for {' and '.join(pages)}, not for {kind}.")
    return pages[kind]()
