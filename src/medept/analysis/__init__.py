"""Looking into models: how their features are distributed, and what their prompts turn down."""

from medept.analysis.analyse import analyse, look_into_fit, summary
from medept.analysis.gate_report import scaling_of

__all__ = ["analyse", "look_into_fit", "scaling_of", "summary"]
