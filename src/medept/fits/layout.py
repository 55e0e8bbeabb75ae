"""Names of the files in the folder of a fit. No other module spells them."""

from __future__ import annotations

ADAPTER_TENSORS = "adapter.safetensors"
"""Trained tensors."""

ADAPTER_INFO = "adapter.json"
"""Encoder, classes, method, settings and recipe of the adapter."""

MODEL_CARD = "README.md"

REPORT = "report.html"
"""The report page."""

SUPPORT = "support.csv"
"""The support set: one row per image, with its case if there are cases."""

FINDINGS = "check.json"
"""Findings of the quick data check."""

HISTORY = "history.csv"
"""The learning curve: one row per epoch. Missing for methods without epochs."""

METRICS = "metrics.json"
"""Metrics on the test set. Missing without a test set."""

SUBGROUPS = "subgroups.csv"
"""Metrics in subgroups of the test set. Missing where none were asked for."""

PREDICTIONS = "predictions.csv"
"""Labels and probabilities of the test set: one row per image, or per case if there are cases.
Missing without a test set."""

IMAGE_PREDICTIONS = "images.csv"
"""The images of the cases of the test set: one row per image. Missing without cases."""

HELD_OUT = "held-out.csv"
"""Predictions of the support images by the cross-validation inside the support set, in the columns
of the former. Missing where nothing could be held out."""

DISTRIBUTION = "distribution.csv"
"""How features are distributed: one row per model, the adapter last."""

FEATURE_FIGURE = "figure2.png"
"""Features before and after tuning, drawn as in figure 2 of the paper."""

GATES = "gates.csv"
"""Gates, one row per model, image and layer; missing, like its figures, without gates."""

GATE_MAPS = "gates.png"
GATES_BY_HEAD = "gates-by-head.png"
GATES_BY_LAYER = "gates-by-layer.png"
