"""What a run's folder shows a person: the table of metrics, pictures and the report page."""

from mtlkit.report.page import write_report
from mtlkit.report.pictures import pictures_png, save_pictures
from mtlkit.report.table import summary_table

__all__ = ["pictures_png", "save_pictures", "summary_table", "write_report"]
