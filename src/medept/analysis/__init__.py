"""Looking into models: how their features are distributed, and what their prompts turn down."""

from medept.analysis.comparison import analyse, look_into_fit, summary
from medept.analysis.patches import scaling_of
from medept.analysis.unseen import unseen

__all__ = ["analyse", "look_into_fit", "scaling_of", "summary", "unseen"]
