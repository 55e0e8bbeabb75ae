"""How good predictions are: metrics with intervals, and probability calibration."""

from medept.evaluation.intervals import Metric
from medept.evaluation.metrics import Evaluation, evaluate
from medept.evaluation.operating_points import OperatingAim, OperatingPoint

__all__ = ["Evaluation", "Metric", "OperatingAim", "OperatingPoint", "evaluate"]
