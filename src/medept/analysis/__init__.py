"""Compares models: how their features are distributed, and which patches their prompts suppress."""

from medept.analysis.analyse import analyse, analyse_fit
from medept.analysis.gates import patch_scaling
from medept.analysis.tables import summary_table

__all__ = ["analyse", "analyse_fit", "patch_scaling", "summary_table"]
