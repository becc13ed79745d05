"""The report: Table 6, Figure 2 and one self-contained page, from what the stages publish."""

from wtours.report.build import ReportResult, build_report

__all__ = ["ReportResult", "build_report"]
