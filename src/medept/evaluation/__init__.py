"""How good predictions are: metrics with intervals, and probability calibration."""

from medept.evaluation.metrics import Evaluation, Metric, evaluate

__all__ = ["Evaluation", "Metric", "evaluate"]
