"""Attaches to the smallest model of every family of timm, transformers and open_clip.

Weights are random; nothing is downloaded. In float64, a prompted model must give what the model
gives when every call of attention is replaced by its softmax written out, with the same prompts;
or ``attach`` must refuse it in words and leave it as it was.

    python benchmarks/sweep_attach.py --out sweep.csv            # resumes; one process
    python benchmarks/sweep_attach.py --out sweep.csv --table docs/encoders.md
"""

from __future__ import annotations

import argparse
import csv
import inspect
import re
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from textwrap import wrap
from typing import Any
from unittest.mock import patch

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medept import EmbeddedPromptConfig, InputError, attach

SIZES = ["test", "atto", "femto", "pico", "nano", "xxtiny", "xxsmall", "xxs", "xtiny", "xt",
         "xsmall", "xs", "tiny", "t", "ti", "mini", "xxt", "x", "lite", "zepto", "little",
         "small", "s", "m", "medium", "base", "b", "large", "l"]  # fmt: skip
OTHER_SIZES = (
    r"patch|window|win|\d.*|.*\dm|[a-z]|in|mediumd|big|(giant|gigantic|huge|enormous|so150m|"
    r"xlarge|xl|[a-z]*largetf|smalltf)(opt)?"
)
"""Parts of a name of timm that say how large a model is, and not how it is built."""
ATTENTION = (
    r"fused_attn|scaled_dot_product|class \w*Att\w*\(|AttentionRope|self_attn|vision_transformer|"
    r"mqa_|mha_|SHSA|MLA\("
)
"""What the source of a module of timm with attention holds."""
SMALLER: tuple[dict[str, Any], ...] = (
    {"depth": 2},
    {"depth": 2, "embed_dim": 192, "num_heads": 3},
    {"depths": (2, 2, 2, 2)},
    {"layers": (2, 2, 2, 2)},
    {},
)
"""Arguments of timm's models, of which the first are taken that give a small one."""
SMALL = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 64,
         "intermediate_size": 96, "patch_size": 16, "depth": 2, "num_layers": 2, "embed_dim": 48,
         "num_heads": 4, "out_hidden_size": 48, "projection_dim": 32}  # fmt: skip
"""The same for the configurations of transformers; where they hold lists, those stay."""
NO_ENCODER = r"Video|Timesformer|Vivit|Text|Tokenizer|Decoder|Wrapper|ForFeature|Tracker"
"""Models of transformers that take no images: films, text."""
LARGEST, LARGEST_WHOLE = 40e6, 130e6
"""Parameters that are small, and of a model that nothing makes smaller."""
SECONDS = 300
"""Of computing that a model may take."""


def timm_families() -> dict[str, list[str]]:
    """Names of timm's models with attention by family, small ones first.

    A family is what the parts of a name say of how a model is built, in one module.
    """
    found: dict[str, list[str]] = {}
    for name in timm.list_models():
        module = inspect.getmodule(timm.model_entrypoint(name))
        if module is None or not re.search(ATTENTION, inspect.getsource(module)):
            continue
        words = [re.sub(r"\d+$", "", word) for word in name.split("_")]
        words = [w for w in words if w and w not in SIZES and not re.fullmatch(OTHER_SIZES, w)]
        key = f"{module.__name__.rpartition('.')[2]}/{'_'.join(dict.fromkeys(words))}"
        found.setdefault(key, []).append(name)

    def rank(name: str) -> tuple[float, int, int]:
        words = [name.split("_")[0], *(re.sub(r"\d+$", "", w) for w in name.split("_")[1:])]
        size = [SIZES.index(w) for w in words if w in SIZES]
        pixels = [int(n) for n in re.findall(r"\d{3}", name)]
        return min(size, default=len(SIZES)), max(pixels, default=224), len(name)

    return {key: sorted(names, key=rank) for key, names in found.items()}


def transformers_models() -> list[str]:
    """Names, without ``Model``, of the classes of transformers whose input is images alone."""
    import transformers

    found = []
    for name in dir(transformers):
        if not re.search(r"(?<!PreTrained)Model$", name) or re.search(NO_ENCODER, name):
            continue
        kind = getattr(transformers, name)
        if getattr(kind, "main_input_name", "") == "pixel_values":
            found.append(name.removesuffix("Model"))
    return found


Make = Callable[[], tuple[nn.Module, Any]]
"""Makes a model, and says the size of its images (None: its own)."""


def cases() -> Iterator[tuple[str, str, tuple[Make, ...]]]:
    """Library, name and constructors of each model, of which the first that runs is taken."""
    for names in timm_families().values():
        yield "timm", names[0], (lambda n=names[0]: (shallow(n), None),)
    for name in transformers_models():
        makes = (partial(small_transformer, name, own_size=own) for own in (False, True))
        yield "transformers", name, tuple(makes)
    for library, name, make in open_clip_cases():
        yield library, name, (make,)


def open_clip_cases() -> Iterator[tuple[str, str, Make]]:
    """As :func:`cases`, of open_clip."""
    import open_clip

    tower = open_clip.model.VisionTransformer
    sizes = {"image_size": 64, "patch_size": 16, "width": 48, "layers": 2, "heads": 4}
    yield "open_clip", "ViT", lambda: (tower(**sizes, mlp_ratio=2.0, output_dim=32), 64)
    yield "open_clip", "ViT, attentional pool", lambda: (
        tower(**sizes, mlp_ratio=2.0, output_dim=32, attentional_pool=True), 64
    )  # fmt: skip
    resnet = open_clip.modified_resnet.ModifiedResNet
    yield "open_clip", "ResNet", lambda: (resnet((1, 1, 1, 1), 32, 4, image_size=64, width=16), 64)


def shallow(name: str) -> nn.Module:
    """A model of timm with two blocks a stage and few channels, as far as it can be told so."""
    for options in SMALLER:
        try:
            with torch.device("meta"):
                small = parameters(timm.create_model(name, num_classes=0, **options)) < LARGEST
        except Exception:
            small = False
        if small or not options:
            return timm.create_model(name, num_classes=0, **options)
    raise AssertionError("the last are no options")


def parameters(model: nn.Module) -> int:
    """How many numbers a model has."""
    return sum(parameter.numel() for parameter in model.parameters())


def small_transformer(name: str, *, own_size: bool = False) -> tuple[nn.Module, int | None]:
    """A model of transformers, small where its configuration takes these sizes.

    Args:
        own_size: of images and patches are its own.
    """
    import transformers

    model = getattr(transformers, f"{name}Model")
    default = model.config_class()
    small = small_options(default)
    own = {k: v for k, v in small.items() if k not in ("image_size", "patch_size")}
    size = None if "image_size" in vars(default) else 224 if own_size else 64
    tries = [(own, size), ({}, size)] if own_size else [(small, 64), (own, size), ({}, size)]
    for options, given in tries:
        try:
            config = model.config_class(**options)
            with torch.device("meta"):
                model(config)
            return model(config), given
        except Exception:
            continue
    raise ImportError("a configuration of more than its defaults")


def small_options(config: Any) -> dict[str, Any]:
    """What makes a configuration small, with those inside it."""
    known = vars(config)
    small: dict[str, Any] = {k: v for k, v in SMALL.items() if isinstance(known.get(k), int)}
    if isinstance(known.get("depths"), (list, tuple)):
        small["depths"] = [2] * len(known["depths"])
    inside = {k: v for k, v in known.items() if k.endswith("_config") and hasattr(v, "to_dict")}
    return small | {k: type(v)(**small_options(v)) for k, v in inside.items()}


@contextmanager
def written_out(model: nn.Module, prompts: dict[str, Tensor]) -> Iterator[None]:
    """While open, attention is its softmax, with prompts (T, L) in the modules of these names."""
    running: list[str] = []
    hooks = []
    for name, module in model.named_modules():
        hooks.append(module.register_forward_pre_hook(lambda *_, n=name: running.append(n)))
        hooks.append(module.register_forward_hook(lambda *_: running.__delitem__(-1)))

    def attend(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, **_):  # type: ignore[no-untyped-def]
        logits = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            logits = logits.masked_fill(~attn_mask, -torch.inf)
        elif attn_mask is not None:
            logits = logits + attn_mask
        if is_causal:
            logits = logits + torch.full_like(logits[0, 0], -torch.inf).triu(1)
        prompt = prompts.get(running[-1])
        if prompt is None:
            return logits.softmax(-1) @ v
        row = prompt.expand(*logits.shape[:2], -1, -1)
        return torch.cat([logits, row], -1).softmax(-1)[..., : k.shape[-2]] @ v

    def project(  # type: ignore[no-untyped-def]
        query, key, value, embed_dim_to_check, num_heads, in_proj_weight, in_proj_bias, bias_k,
        bias_v, add_zero_attn, dropout_p, out_proj_weight, out_proj_bias, **options,
    ):  # fmt: skip
        if in_proj_weight is None:
            weights = [options[f"{x}_proj_weight"] for x in "qkv"]
        else:
            weights = in_proj_weight.chunk(3)
        parts = zip((query, key, value), weights, in_proj_bias.chunk(3), strict=True)
        qkv = [F.linear(*part).unflatten(-1, (num_heads, -1)).permute(1, 2, 0, 3) for part in parts]
        out = attend(*qkv, attn_mask=options.get("attn_mask"))
        return F.linear(out.permute(2, 0, 1, 3).flatten(2), out_proj_weight, out_proj_bias), None

    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with patch.multiple(F, scaled_dot_product_attention=attend,
                            multi_head_attention_forward=project):  # fmt: skip
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
        for hook in hooks:
            hook.remove()


def tensor(output: Any) -> Tensor:
    """All numbers that a model gives, in one tensor."""
    return torch.cat(list(parts(output)))


def parts(output: Any) -> Iterator[Tensor]:
    """Each tensor that a model gives, with one dimension."""
    if isinstance(output, Tensor):
        yield output.flatten().double()
    elif isinstance(output, (dict, list, tuple)):
        for part in output.values() if isinstance(output, dict) else output:
            yield from parts(part)


def traces(model: nn.Module) -> tuple[Any, ...]:
    """What ``attach`` must not change, or must put back."""
    sums = {name: x.double().sum().item() for name, x in model.state_dict().items()}
    kept = [(type(m), m.training, len(m._forward_hooks)) for m in model.modules()]
    return str(sums), kept, [p.requires_grad for p in model.parameters()]


@torch.no_grad()
def compare(model: nn.Module, size: int | None) -> tuple[str, str]:
    """``equal``, ``refused`` or ``WRONG``, and what was prompted, or the reason."""
    model = model.double().eval()
    before = traces(model)
    config = EmbeddedPromptConfig(length=3, init="kaiming")
    try:
        handle = attach(model, config, image_size=size)
    except InputError as error:
        return ("refused" if traces(model) == before else "WRONG"), reason(str(error))
    told = repr(handle).partition(": ")[2]
    counts, left = told.partition(" attentions")[0], told.partition("left out: ")[2][:-1]
    for prompt in handle.prompts.values():
        prompt.double()
    prompts = {handle.sites[i].name: p.prompt.clone() for i, p in handle.prompts.items()}
    pixels = torch.randn(1, 3, *handle.sites[0].image, dtype=torch.float64)
    found = tensor(model(pixels))
    fused = [m for m in model.modules() if getattr(m, "fused_attn", None)]
    eager = getattr(getattr(model, "config", None), "_attn_implementation", None)
    handle.detach()
    intact = traces(model) == before
    plain = tensor(model(pixels))
    for module in fused:
        module.fused_attn = True  # type: ignore[assignment]
    if eager != getattr(getattr(model, "config", None), "_attn_implementation", None):
        model.set_attn_implementation(eager)  # type: ignore[operator]
    with written_out(model, prompts):
        expected = tensor(model(pixels))
    error = (found - expected).abs().max() / expected.abs().max()
    acts = not torch.equal(found, plain)
    right = bool(error < 1e-8) and acts and intact
    note = f"{counts} prompted" + (f"; {left}" if left else "")
    return ("equal" if right else "WRONG"), note if right else f"{note}: {error:.1e}, {acts=}"


def reason(message: str) -> str:
    """A refusal without the list of what is supported."""
    short = message.partition(" Supported are")[0]
    if "no self-attention" in short and " It has " not in short:
        return "no self-attention"
    has = short.partition(" It has ")[2] or short.partition(" (")[2] or short
    return re.sub(r" \([^()]*\)(?=[;.]|$)", "", has.strip(" .)"))[:160]


def tried(makes: tuple[Make, ...]) -> tuple[str, str]:
    """What came of the first model that runs, or of the last, and why."""
    found = "skipped", ""
    for make in makes:
        found = tried_once(make)
        if found[0] in ("equal", "WRONG") or found[1][:1].isdigit():
            break
    return found


def tried_once(make: Make) -> tuple[str, str]:
    """What came of a model, and why."""
    torch.manual_seed(0)
    try:
        with torch.device("meta"):
            size = parameters(make()[0])
        if size > LARGEST_WHOLE:
            return "skipped", f"{size / 1e6:.0f} million parameters"
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        return compare(*make())
    except ImportError as error:
        return "skipped", f"needs {error}".strip().splitlines()[0]
    except Exception as error:
        return "FAILED", f"{type(error).__name__}: {error}".splitlines()[0][:160]
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def sweep(out: Path, words: str) -> None:
    """Try all models whose name holds these words, but those that the table has already."""

    def too_long(*_: object) -> None:
        raise TimeoutError(f"more than {SECONDS} seconds")

    signal.signal(signal.SIGPROF, too_long)
    known = set()
    if out.exists():
        known = {(row["library"], row["model"]) for row in csv.DictReader(out.open())}
    with out.open("a", newline="") as file:
        writer = csv.writer(file)
        if not known:
            writer.writerow(["library", "model", "result", "note"])
        for library, name, makes in cases():
            if (library, name) in known or words not in name:
                continue
            result = tried(makes)
            writer.writerow([library, name, *result])
            file.flush()
            print(library, name, *result, flush=True)


HEADING = "## Which encoders `attach` prompts"
"""The table's; what stands before it on the page is kept."""


def write_table(out: Path, page: Path) -> None:
    rows = list(csv.DictReader(out.open()))
    told = [row for row in rows if row["note"][:1].isdigit() and row["result"] != "skipped"]
    told.sort(key=lambda row: ["timm", "transformers", "open_clip"].index(row["library"]))
    equal = sum(row["result"] == "equal" for row in told)
    tried = Counter(row["library"] for row in rows if row["result"] != "skipped")
    lines = [
        HEADING, "",
        "Generated by `benchmarks/sweep_attach.py`: the smallest model of each family, with random",
        "weights, in float64. *Equal*: its output is that of the softmax written out with the same",
        "prompts. *Refused*: `attach` says why, and leaves the model as it was.", "",
        *wrap(
            f"{sum(tried.values())} models were tried ({tried['timm']} of timm, "
            f"{tried['transformers']} of transformers, {tried['open_clip']} of open_clip). "
            f"{equal} are equal, and {len(told) - equal} attend in another way and are refused. "
            "The others, which are not listed, are refused too: they have no self-attention, or "
            "take more than an image, as detectors and models of text do. None is wrong.", 100
        ), "",
        "| library | model | result | prompted, or why not |", "| --- | --- | --- | --- |",
    ]  # fmt: skip
    for row in told:
        start = f"| {row['library']} | {row['model']} | {row['result']} | "
        note = row["note"].replace(", not (B, H, T, d)", "")
        note = note.replace(", not scaled_dot_product_attention", "")
        note = re.sub(r" \([^()]*(\)|$)|,(?=;|$)", "", note)
        lines.append(start + note[: 97 - len(start)].rstrip(" ,;") + " |")
    before = page.read_text().partition(HEADING)[0] if page.exists() else ""
    page.write_text(before + "\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--table", type=Path)
    parser.add_argument("--only", default="", help="of models whose name holds this")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.table:
        write_table(options.out, options.table)
    else:
        sweep(options.out, options.only)


if __name__ == "__main__":
    sys.exit(main())
