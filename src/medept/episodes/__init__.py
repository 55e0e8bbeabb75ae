"""Support sets and folds, drawn by case."""
