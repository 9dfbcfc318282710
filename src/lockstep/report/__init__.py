"""Plots, tables and the page of a run: reads a run folder, nothing else."""

from lockstep.report.images import sample_sheet
from lockstep.report.report import report
from lockstep.report.tables import scores_table

__all__ = ["report", "sample_sheet", "scores_table"]
