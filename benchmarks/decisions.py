"""What decisions rest on, measured on new patients: prediction sets, and what is unfamiliar.

    python benchmarks/decisions.py {sets,unfamiliar} TABLE [TABLE ...] [--shots 5 10 20 50]
                                   [--episodes 20]

Features are those of the embedded encoder for images as they are (no views), computed once. Support
sets are drawn by patient, and everything else is done as in `medept fit` with its default method,
`ridge`.

sets: how often prediction sets hold the truth: mean over classes, in the class where it is least,
    and the mean number of classes in a set; from held-out folds of the support set, and from half
    of the other patients, to be tried on the other half.
unfamiliar: AUROC of images of the other tables and of phantoms against new patients, the share of
    them that is told to be unfamiliar, and that of the new patients (the false alarms, of which
    0.05 are allowed).

Without a table it runs on phantoms. With --json it prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from medept.data.dataset import read_dataset
from medept.data.labelled_images import LabelledImages
from medept.encoders.load import load_encoder
from medept.encoders.readout import default_readout
from medept.episodes.draw import draw_episode
from medept.episodes.folds import make_folds
from medept.errors import InputError
from medept.evaluation.calibration import fit_calibration
from medept.evaluation.familiarity import distances, fit_familiarity, spread
from medept.evaluation.prediction_sets import PredictionSets, fit_prediction_sets, judge_sets
from medept.methods import adapt
from medept.phantoms import make_phantoms
from medept.training.device import make_accelerator
from medept.training.inference import encode_images, logits_of_features

Measured = dict[str, dict[str, float]]
"""By variant: name of a number -> the number."""


class Data:
    """A data set with its features, and heads fitted to parts of it."""

    def __init__(self, data: LabelledImages) -> None:
        encoder = load_encoder()
        encoder.read_as(default_readout(encoder))
        self.data = data
        self.features = encode_images(encoder, data.images, make_accelerator("cpu", "float32"))
        self.groups = np.arange(len(data)).astype(str) if data.groups is None else data.groups
        self.others: dict[str, np.ndarray] = {}
        self._encoder = encoder

    def logits(self, train: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Logits (m, C) of rows, by a head fitted to the rows ``train``."""
        model = adapt(self._encoder, "ridge", len(self.data.classes))
        model.fit_features(self.features[train], self.data.targets[train], self.groups[train])
        return logits_of_features(model, self.features[rows])

    def predicted(
        self, support: np.ndarray, rows: np.ndarray, seed: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Calibrated probabilities of the support set by cross-validation, and of other rows."""
        targets = self.data.targets[support]
        held = np.zeros((len(support), len(self.data.classes)))
        for train, out in make_folds(targets, self.groups[support], 3, seed):
            held[out] = self.logits(support[train], support[out])
        calibration = fit_calibration("temperature", held, targets)
        new = self.logits(support, rows)
        return tuple(calibration.probabilities(x, "multiclass") for x in (held, new))


def sets(found: Data, shots: int, seed: int) -> Measured:
    data, classes = found.data, found.data.classes
    drawn = draw_episode(data, shots, seed=seed)
    held, p = found.predicted(drawn.support, drawn.test, seed)
    y, groups = data.targets, found.groups
    ids = np.unique(groups[drawn.test], return_inverse=True)[1]
    half = np.random.default_rng(seed).permutation(ids.max() + 1)[ids] < ids.max() // 2

    def judged(of: PredictionSets, rows: np.ndarray) -> dict[str, float]:
        where = drawn.test[rows]
        told = judge_sets(of, of.contain(p[rows]), y[where], classes, groups[where])
        each = [m.value for m in told.by_class.values() if m.value is not None]
        return {"coverage": float(np.mean(each)), "least": min(each), "size": told.mean_size}

    folds = fit_prediction_sets(held, y[drawn.support], groups[drawn.support], classes)
    other = drawn.test[half]
    known = fit_prediction_sets(p[half], y[other], groups[other], classes)
    return {"held-out folds": judged(folds, np.ones(len(p), bool)),
            "other patients": judged(known, ~half)}  # fmt: skip


def unfamiliar(found: Data, shots: int, seed: int) -> Measured:
    drawn = draw_episode(found.data, shots, seed=seed)
    support, x = drawn.support, found.features
    apart = np.zeros(len(support))
    targets, groups = found.data.targets[support], found.groups[support]
    for train, out in make_folds(targets, groups, 3, seed):
        apart[out] = distances(x[support[out]], *spread(x[support[train]]))
    known = fit_familiarity(x[support], apart, groups)
    inside = known.strangeness(x[drawn.test])
    told = {}
    for name, others in found.others.items():
        outside = known.strangeness(others)
        truth = np.repeat([0, 1], [len(inside), len(outside)])
        told[name] = {
            "auroc": float(roc_auc_score(truth, np.r_[inside, outside])),
            "found": float((outside > 1).mean()),
            "false alarms": float((inside > 1).mean()),
        }
    return told


MEASURES: dict[str, Callable[[Data, int, int], Measured]] = {
    "sets": sets, "unfamiliar": unfamiliar,
}  # fmt: skip


def of_enough(data: LabelledImages, most: int) -> LabelledImages:
    """The data without classes of fewer than ten images more than a patient for each shot."""
    sizes = np.bincount(data.targets, minlength=len(data.classes))
    kept = np.flatnonzero(sizes >= min(most, 10) + 10)
    rows = np.isin(data.targets, kept)
    part = data.subset(np.flatnonzero(rows))
    return replace(part, classes=tuple(data.classes[c] for c in kept),
                   targets=np.searchsorted(kept, part.targets))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("what", choices=MEASURES)
    parser.add_argument("tables", nargs="*", type=Path)
    parser.add_argument("--shots", nargs="+", type=int, default=[5, 10, 20, 50])
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="Few shots, two support sets.")
    given = parser.parse_args()
    if given.quick:
        given.shots, given.episodes = [5], 2
    data = {table.parent.name: read_dataset(table) for table in given.tables}
    if not data:
        patients = 24 if given.quick else 120
        data = {"phantoms": make_phantoms("colon", patients=patients, images_per_patient=2)}
    rows = []
    every = {name: Data(of_enough(images, max(given.shots))) for name, images in data.items()}
    strange = {kind: Data(make_phantoms(kind, patients=20, images_per_patient=1)).features
               for kind in ("chest", "endo")}  # fmt: skip
    for name, found in every.items():
        found.others = strange | {n: other.features for n, other in every.items() if n != name}
        for shots in given.shots:
            try:
                each = [MEASURES[given.what](found, shots, seed) for seed in range(given.episodes)]
            except InputError as error:
                print(f"# {name}, {shots} shots: {error}") if not given.json else None
                continue
            for variant in each[0]:
                means = {key: float(np.mean([one[variant][key] for one in each]))
                         for key in each[0][variant]}  # fmt: skip
                rows.append({"data": name, "shots": shots, "variant": variant, **means})
                if not given.json:
                    print("  ".join(f"{v:.3f}" if isinstance(v, float) else str(v)
                                    for v in rows[-1].values()), flush=True)  # fmt: skip
    if given.json:
        print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
