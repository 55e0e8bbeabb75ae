"""Few-shot episodes and cross-validation folds, in which a case is never on both sides."""
