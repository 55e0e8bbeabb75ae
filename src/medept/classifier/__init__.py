"""The few-shot classifier, and what it consists of."""
