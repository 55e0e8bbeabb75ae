"""What compiles in one graph, exports, and runs in ONNX Runtime: attention, and whole models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from equation_5 import (
    D,
    H,
    T,
    compare,
    inputs,
    reference,
)
from torch import Tensor, nn

from medept import EmbeddedPromptConfig, attach
from medept.ept.attention import WAYS, prompted_attention, sink_attention


@pytest.mark.parametrize("way", ["concat", "multiply_concat", "keys"])
def test_compiles_in_one_graph(way: str) -> None:
    ours = inputs(torch.float32, way=way)
    compiled = torch.compile(
        lambda *x: prompted_attention(*x, way=way), fullgraph=True, backend="aot_eager"
    )
    theirs = [x.detach().double().requires_grad_() for x in ours]
    compare(compiled(*ours), reference(*theirs, way, None, D**-0.5), ours, theirs, 1e-5)


@pytest.mark.slow
def test_compiles_with_inductor() -> None:
    ours = inputs(torch.float32)
    theirs = [x.detach().double().requires_grad_() for x in ours]
    compiled = torch.compile(prompted_attention, fullgraph=True)
    compare(compiled(*ours), reference(*theirs, "concat", None, D**-0.5), ours, theirs, 1e-5)


class Layer(torch.nn.Module):
    """One attention with a prompt (or a sink) as its only parameter."""

    def __init__(self, way: str) -> None:
        super().__init__()
        shapes = {"sink": (T,), "keys": (H, 2, D)}
        self.way, self.prompt = way, torch.nn.Parameter(torch.randn(shapes.get(way, (T, T))))

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.way == "sink":
            return sink_attention(q, k, v, self.prompt)
        return prompted_attention(q, k, v, self.prompt, way=self.way)


@pytest.mark.parametrize("way", ["sink", *WAYS])
def test_exports_in_plain_operators(way: str) -> None:
    """What is exported runs on any device: no operator of one device's kernel."""
    layer, arguments = Layer(way).eval(), tuple(x.detach() for x in inputs(torch.float32)[:3])
    program = torch.export.export(layer, arguments)
    assert "flash" not in program.graph_module.code
    torch.testing.assert_close(program.module()(*arguments), layer(*arguments))


@pytest.mark.slow
def test_onnx_runtime_gives_the_same(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    layer, arguments = Layer("sink").eval(), tuple(x.detach() for x in inputs(torch.float32)[:3])
    file = tmp_path / "layer.onnx"
    torch.onnx.export(layer, arguments, file, dynamo=True, verbose=False)
    session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [x.name for x in session.get_inputs()]
    (out,) = session.run(None, {n: x.numpy() for n, x in zip(names, arguments, strict=True)})
    torch.testing.assert_close(torch.from_numpy(out), layer(*arguments).detach())


ANY_BATCH = ({0: torch.export.Dim("batch")},)


def test_compiles_in_one_graph_with_its_gradients(tiny_vit: nn.Module) -> None:
    pixels = torch.randn(2, 3, 32, 32)
    handle = attach(tiny_vit, EmbeddedPromptConfig(length=5, init="uniform"))
    compiled = torch.compile(tiny_vit, fullgraph=True, backend="aot_eager")
    outputs = [model(pixels) for model in (compiled, tiny_vit)]
    torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-6)
    ours, expected = (torch.autograd.grad(x.square().sum(), handle.parameters()) for x in outputs)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("way", ["concat", "keys"])
def test_a_merged_model_compiles_in_one_graph_and_exports_for_any_batch(
    tiny_vit: nn.Module, way: str
) -> None:
    pixels = torch.randn(5, 3, 32, 32)
    attach(tiny_vit, EmbeddedPromptConfig(length=5, init="uniform", way=way)).merge()
    expected = tiny_vit(pixels)
    compiled = torch.compile(tiny_vit, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(pixels), expected, rtol=1e-5, atol=1e-6)
    exported = torch.export.export(tiny_vit, (pixels[:2],), dynamic_shapes=ANY_BATCH).module()
    torch.testing.assert_close(exported(pixels), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["concat", "keys"])
def test_a_merged_model_runs_in_onnxruntime(tiny_vit: nn.Module, tmp_path: Path, way: str) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    pixels = torch.randn(5, 3, 32, 32)
    attach(tiny_vit, EmbeddedPromptConfig(length=30, init="kaiming", way=way)).merge()
    expected = tiny_vit(pixels).detach()
    file = tmp_path / "model.onnx"
    torch.onnx.export(
        tiny_vit, (pixels[:2],), file, dynamo=True, verbose=False, dynamic_shapes=ANY_BATCH
    )
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {session.get_inputs()[0].name: pixels.numpy()})
    torch.testing.assert_close(torch.from_numpy(output), expected, rtol=1e-4, atol=1e-5)
