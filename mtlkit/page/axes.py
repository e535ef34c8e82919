"""The axes of a panel whose horizontal axis has the steps of training."""

from mtlkit.page import svg

TOP, BOTTOM, LEFT = 10, 186, 44  # the edges of the plot
HEIGHT = 218


def axes(up: svg.Axis, across: svg.Scale, better: str = "", label: str = "step") -> str:
    """Draws both axes. `better` names the better direction on the vertical axis, `label` the horizontal axis."""
    left, right = across.start, across.end
    body = ""
    for value, words in up.ticks():
        body += svg.line(left, up(value), right, up(value)) + svg.text(left - 6, up(value) + 3.5, words, "tick end")
    body += svg.line(left, BOTTOM, right, BOTTOM, "axis")
    for value, words in across.ticks(3):
        body += svg.line(across(value), BOTTOM, across(value), BOTTOM + 4, "axis")
        body += svg.text(across(value), BOTTOM + 16, words, "tick middle")
    body += svg.text(left, BOTTOM + 28, label, "tick")
    return body + (svg.text(right, BOTTOM + 28, better, "tick end") if better else "")
