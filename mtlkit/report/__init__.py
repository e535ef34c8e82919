"""Shows the results of a run: the table of metrics, the pictures, the report page, and the explanation."""

from mtlkit.report.explanation import explain
from mtlkit.report.page import write_report
from mtlkit.report.pictures import save_pictures
from mtlkit.report.pictures_png import pictures_png
from mtlkit.report.table import summary

__all__ = ["explain", "pictures_png", "save_pictures", "summary", "write_report"]
