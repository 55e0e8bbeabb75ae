"""Gates and attention rollout against those computed from the queries and keys of each layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from medept import FewShotClassifier
from medept.analysis.gates import has_gates, patch_scaling
from medept.encoders.load import load_encoder
from medept.errors import InputError
from medept.methods import adapt
from medept.phantoms import make_phantoms


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the adapters ``ept`` and ``linear``."""
    folder = tmp_path_factory.mktemp("adapters")
    data = make_phantoms("colon", patients=4, images_per_patient=2, size=48)
    for method in ("ept", "linear"):
        classifier = FewShotClassifier(method=method, epochs=2, calibrate="none")
        classifier.fit(data.images, data.labels).save(folder / method)
    return folder


def test_gates_and_rollout_are_those_of_the_attention(adapters: Path) -> None:
    """Of which bfloat16, in which the encoder may be held, has as much as its digits."""
    usual = {"folder": adapters / "ept", "device": "cpu"}
    classifier = FewShotClassifier.load(precision="float32", **usual)
    images = [Image.fromarray(np.full((64, 64, 3), value, np.uint8)) for value in (40, 200)]
    scaling = patch_scaling(classifier.model_, images)
    rounded = patch_scaling(FewShotClassifier.load(precision="bfloat16", **usual).model_, images)
    assert np.allclose(rounded.rollout.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(rounded.gates, scaling.gates, atol=0.01)
    np.testing.assert_allclose(rounded.rollout, scaling.rollout, rtol=0.1)
    model, handle = classifier.model_, classifier.model_.handle
    blocks = model.encoder.model.blocks
    n, layers, tokens = len(images), len(blocks), handle.sites[0].tokens
    assert scaling.gates.shape == (n, layers, handle.sites[0].heads, tokens)
    assert scaling.layers == tuple(range(1, layers + 1))
    assert ((scaling.gates > 0) & (scaling.gates < 1)).all()
    assert np.allclose(scaling.rollout.sum(axis=1), 1, atol=1e-5)

    seen: dict[int, torch.Tensor] = {}
    for i, block in enumerate(blocks):
        block.attn.qkv.register_forward_hook(lambda m, x, out, i=i: seen.update({i: out}))
    pixels = torch.stack([model.encoder.preprocessing.evaluation()(image) for image in images])
    with torch.no_grad():
        model.encoder.model(pixels)  # whole: the encoder makes fewer queries in its last block
    flow = torch.eye(tokens)
    for i, block in enumerate(blocks):
        q, k, _ = seen[i].unflatten(-1, (3, block.attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
        logits = q @ k.mT * q.shape[-1] ** -0.5
        sums = handle.prompts[i].prompt.detach().exp()  # merged: one number per token
        whole = logits.exp().sum(-1)
        expected = (whole / (whole + sums)).numpy()
        np.testing.assert_allclose(scaling.gates[:, i], expected, rtol=1e-4, atol=1e-5)
        flow = (0.5 * logits.softmax(-1).mean(1) + 0.5 * torch.eye(tokens)) @ flow
    np.testing.assert_allclose(scaling.rollout, flow[:, 0].numpy(), rtol=1e-3, atol=1e-5)
    rows, columns = scaling.grid
    assert scaling.rollout_maps().shape == (n, rows, columns)
    patches = scaling.gates[0, 0, 0, -rows * columns :]
    assert np.array_equal(scaling.gate_maps()[0, 0, 0].ravel(), patches)


def test_gates_of_prompts_with_keys_depend_on_the_image() -> None:
    model = adapt(load_encoder(), "ept", 2, {"way": "keys", "length": 2})
    images = [np.full((64, 64, 3), value, np.uint8) for value in (40, 200)]
    scaling = patch_scaling(model, images)
    assert scaling.gate_maps().shape == (2, 8, 3, 8, 8)
    assert ((scaling.gates > 0) & (scaling.gates < 1)).all()
    assert not np.allclose(*scaling.gates, atol=1e-3)


def test_only_prompts_of_one_grid_have_gates(adapters: Path) -> None:
    linear = FewShotClassifier.load(adapters / "linear")
    assert not has_gates(linear.model_)
    with pytest.raises(InputError, match="concat"):
        patch_scaling(linear.model_, [])
