"""How often the 95 % intervals of `evaluate` hold the truth, on simulated test sets.

    python benchmarks/intervals.py [--test-sets 2000] [--quick] [--json]

A test set has a given number of images of each class. Logits are normal, shifted in the true class,
and images of a group (a patient) share half of their deviation. The truth is a metric on a large
set of the same kind; for the ECE, which grows as sets become small, it is the mean over the
simulated sets. A proportion of 2,000 sets has a standard error of 0.005.
"""

from __future__ import annotations

import argparse
import json

import numpy as np
from scipy.special import softmax

from medept.evaluation import Evaluation, evaluate

SHARED = 0.5
"""Part of the variance of logits that images of a group share."""

DESIGNS = [
    ((195, 5), 1), ((190, 10), 1), ((180, 20), 1), ((150, 50), 1), ((5, 5), 1), ((60, 20, 5), 1),
    ((100, 5, 5, 5), 1), ((200, 20), 4), ((200, 40), 4), ((200, 80), 4), ((60, 20, 20), 2),
    ((200, 200), 20),
]  # fmt: skip
"""Images of each class, and images of a group."""


def draw(
    counts: tuple[int, ...], group: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities (n, C), targets (n,) and groups (n,) of a test set."""
    classes = len(counts)
    y = np.repeat(np.arange(classes), counts)
    within = np.concatenate([np.arange(count) // group for count in counts])
    ids = np.unique(y * len(y) + within, return_inverse=True)[1]
    shared = SHARED if group > 1 else 0.0
    noise = np.sqrt(shared) * random.normal(size=(ids.max() + 1, classes))[ids]
    noise += np.sqrt(1 - shared) * random.normal(size=(len(y), classes))
    shift = np.linspace(2.2, 1.6, classes)
    return softmax(1.5 * (noise + np.eye(classes)[y] * shift), axis=1), y, ids


def metrics_of(
    counts: tuple[int, ...], group: int, random: np.random.Generator, draws: int
) -> dict[str, tuple[float, float, float]]:
    """Value, low and high of every metric on one test set; without draws, the value alone."""
    p, y, ids = draw(counts, group, random)
    names = [str(c) for c in range(len(counts))]
    found: Evaluation = evaluate(p, y, classes=names, groups=ids, resamples=draws)
    each = dict(found.metrics)
    for c, rates in found.by_class.items():
        each |= {f"{rate} of {c}": metric for rate, metric in rates.items()}
    labels = evaluate(p, np.eye(len(counts), dtype=int)[y], classes=names, groups=ids,
                      resamples=draws)  # fmt: skip
    each["map"] = labels.metrics["map"]
    return {n: (m.value, m.low, m.high) for n, m in each.items() if m.value is not None}  # type: ignore[misc]


def coverage(
    counts: tuple[int, ...], *, group: int, test_sets: int, population: int = 200_000
) -> dict[str, float]:
    """For each metric, the proportion of test sets whose interval holds the truth."""
    times = max(population // sum(counts), 1)
    large = tuple(count * times for count in counts)
    truth = {name: m[0] for name, m in metrics_of(large, 1, np.random.default_rng(1), 0).items()}
    random = np.random.default_rng(0)
    drawn = [metrics_of(counts, group, random, 200) for _ in range(test_sets)]
    truth["ece"] = float(np.mean([sample["ece"][0] for sample in drawn]))
    return {
        name: float(np.mean([s[name][1] <= value <= s[name][2] for s in drawn if name in s]))
        for name, value in truth.items()
    }


def main() -> None:
    """Print a line for each design."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--test-sets", type=int, default=2000)
    parser.add_argument("--quick", action="store_true", help="two designs, 50 test sets")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    rows = []
    for counts, group in DESIGNS[:2] if given.quick else DESIGNS:
        test_sets = 50 if given.quick else given.test_sets
        held = coverage(counts, group=group, test_sets=test_sets)
        rows.append({"counts": counts, "group": group, "held": held})
        if not given.json:
            rates = ", ".join(f"{name} {rate:.3f}" for name, rate in held.items())
            print(f"{counts}, {group} to a group: {rates}", flush=True)
    if given.json:
        print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
