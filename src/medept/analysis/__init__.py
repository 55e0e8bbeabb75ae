"""Looking into models: how their features are distributed, and what their prompts turn down."""

from medept.analysis.comparison import analyse, look_into_fit, summary, unseen
from medept.analysis.patches import scaling_of

__all__ = ["analyse", "look_into_fit", "scaling_of", "summary", "unseen"]
