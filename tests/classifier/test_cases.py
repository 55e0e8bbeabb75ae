"""Cases: their features, their probabilities, and that one image a case changes nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from bags import make_bags

from medept import FewShotClassifier, InputError
from medept.data.cases import gather

IMAGES, IDS, LABELS, PATIENTS = make_bags()


def quick(**changes: object) -> FewShotClassifier:
    usual = {"readout": "pooled", "symmetry": "flip", "device": "cpu", "precision": "float32"}
    return FewShotClassifier(**(usual | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("pool", ["mean", "max", "attention"])
def test_one_image_a_case_is_no_case_to_the_bit(pool: str) -> None:
    labels = [LABELS[int(case.split("-")[1])] for case in IDS]
    plain = quick(pool=pool).fit(IMAGES, labels)
    cased = quick(pool=pool).fit(IMAGES, labels, cases=np.arange(len(IMAGES)))
    other = np.arange(len(IMAGES)) + 100
    np.testing.assert_array_equal(plain.predict_proba(IMAGES), cased.predict_proba(IMAGES, other))
    for name, tensor in plain.model_.trained_state().items():
        assert torch.equal(tensor, cased.model_.trained_state()[name]), name


@pytest.mark.parametrize("method", ["linear", "ept"])
def test_one_image_a_case_is_no_case_to_the_bit_in_training(method: str) -> None:
    labels = [LABELS[int(case.split("-")[1])] for case in IDS]
    options = {"method": method, "epochs": 2, "calibrate": "none"}
    plain = quick(**options).fit(IMAGES, labels)
    cased = quick(**options).fit(IMAGES, labels, cases=np.arange(len(IMAGES)))
    np.testing.assert_array_equal(
        plain.predict_proba(IMAGES), cased.predict_proba(IMAGES, np.arange(len(IMAGES)))
    )


@pytest.mark.parametrize("pool", ["mean", "max"])
def test_features_of_a_case_are_pooled_from_those_of_its_images(pool: str) -> None:
    fitted = quick(pool=pool, symmetry="none", calibrate="none").fit(IMAGES, LABELS, cases=IDS)
    each = fitted.embed(IMAGES).astype(np.float64)
    rows = {case: [i for i, own in enumerate(IDS) if own == case] for case in dict.fromkeys(IDS)}
    pooled = np.stack([getattr(np, pool)(each[row], axis=0) for row in rows.values()])
    np.testing.assert_allclose(fitted.embed(IMAGES, IDS), pooled, rtol=1e-4, atol=1e-5)
    head = fitted.model_.head.folded()
    expected = pooled @ head["weight"].double().numpy().T + head["bias"].double().numpy()
    np.testing.assert_allclose(fitted.logits(IMAGES, IDS), expected, rtol=1e-3, atol=1e-4)


def test_max_takes_the_largest_of_each_view_before_their_mean() -> None:
    fitted = quick(pool="max", calibrate="none").fit(IMAGES, LABELS, cases=IDS)
    one_view = quick(symmetry="none")
    mirrored = [image[:, ::-1] for image in IMAGES]
    each = np.stack([one_view.embed(IMAGES), one_view.embed(mirrored)])
    case = [i for i, own in enumerate(IDS) if own == "case-1"]
    expected = each[:, case].max(axis=1).mean(axis=0)
    np.testing.assert_allclose(fitted.embed(IMAGES, IDS)[1], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("pool", ["mean", "max", "attention"])
def test_images_of_a_case_may_stand_in_any_order_and_between_others(pool: str) -> None:
    fitted = quick(pool=pool, calibrate="none").fit(IMAGES, LABELS, cases=IDS)
    found = dict(zip(dict.fromkeys(IDS), fitted.predict_proba(IMAGES, IDS), strict=True))
    order = np.random.default_rng(0).permutation(len(IDS))
    shuffled = [IDS[i] for i in order]
    again = fitted.predict_proba([IMAGES[i] for i in order], shuffled)
    for case, row in zip(dict.fromkeys(shuffled), again, strict=True):
        np.testing.assert_allclose(row, found[case], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("pool", ["mean", "max", "attention"])
def test_weights_add_up_to_one_and_saved_it_pools_the_same(pool: str, tmp_path: Path) -> None:
    fitted = quick(pool=pool).fit(IMAGES, LABELS, cases=IDS, groups=PATIENTS)
    found = fitted.predict_cases(IMAGES, IDS)
    assert found.sizes.tolist() == [1, 4, 3, 2] * 2
    starts = np.append(0, found.sizes.cumsum()[:-1])
    np.testing.assert_allclose(np.add.reduceat(found.weights, starts), 1, rtol=1e-5)
    only = found.image_probabilities[0]
    np.testing.assert_allclose(only, found.probabilities[0], rtol=1e-4)
    fitted.save(tmp_path / "adapter")
    info = fitted.info()
    assert (info.pool, info.support_images, info.support_cases) == (pool, 20, 8)
    loaded = FewShotClassifier.load(tmp_path / "adapter", device="cpu", precision="float32")
    np.testing.assert_allclose(
        loaded.predict_proba(IMAGES, IDS), found.probabilities, rtol=1e-4, atol=1e-6
    )


def test_labels_and_groups_are_given_for_each_case_or_for_each_image() -> None:
    of_each = [int(case.split("-")[1]) for case in IDS]
    by_case = quick(calibrate="none").fit(IMAGES, LABELS, cases=IDS, groups=PATIENTS)
    by_image = quick(calibrate="none").fit(
        IMAGES, [LABELS[i] for i in of_each], cases=IDS, groups=[PATIENTS[i] for i in of_each]
    )
    as_objects = quick(calibrate="none").fit(gather(IMAGES, IDS), LABELS)
    expected = by_case.predict_proba(IMAGES, IDS)
    np.testing.assert_array_equal(by_image.predict_proba(IMAGES, IDS), expected)
    np.testing.assert_array_equal(as_objects.predict_proba(gather(IMAGES, IDS)), expected)


def test_a_case_weighs_the_same_whatever_its_number_of_images() -> None:
    """Giving every image of one case twice changes nothing about the fit."""
    many = [*IMAGES, *(IMAGES[i] for i, own in enumerate(IDS) if own == "case-1")]
    repeated = [*IDS, *["case-1"] * IDS.count("case-1")]
    once = quick(calibrate="none").fit(IMAGES, LABELS, cases=IDS)
    twice = quick(calibrate="none").fit(many, LABELS, cases=repeated)
    np.testing.assert_allclose(
        once.predict_proba(IMAGES, IDS), twice.predict_proba(IMAGES, IDS), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("pool", ["mean", "max"])
@pytest.mark.parametrize("method", ["linear", "ept"])
def test_trained_methods_learn_from_a_few_images_of_each_case(method: str, pool: str) -> None:
    recipe = {"images_per_case": 3, "batch_size": 3, "views": 2}
    options = {"method": method, "pool": pool, "epochs": 4, "calibrate": "none"}
    fitted = quick(**options, recipe_settings=recipe).fit(IMAGES, LABELS, cases=IDS)
    assert fitted.predict_proba(IMAGES, IDS).shape == (8, 2)
    micro = quick(**options, recipe_settings=recipe | {"micro_batch": 1})
    micro.fit(IMAGES, LABELS, cases=IDS)
    np.testing.assert_allclose(
        micro.predict_proba(IMAGES, IDS), fitted.predict_proba(IMAGES, IDS), rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({"pool": "median"}, {}, "pool='median'"),
        ({"pool": "attention", "method": "ept"}, {}, "use mean or max with ept"),
        ({}, {"cases": IDS[:-1]}, "19 ids of cases"),
        ({}, {"cases": [*IDS[:-1], ""]}, "image 19"),
        ({}, {"y": LABELS[:-1]}, "one a case"),
        ({}, {"y": ["ill", *["well"] * 19], "cases": ["a", "a", *IDS[2:]]}, "different labels"),
    ],
)
def test_what_does_not_go_together_is_refused(changes, arguments, message: str) -> None:
    given = {"y": LABELS, "cases": IDS} | arguments
    with pytest.raises(InputError, match=message):
        quick(**changes).fit(IMAGES, **given)
