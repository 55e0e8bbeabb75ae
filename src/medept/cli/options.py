"""Options that several verbs share."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import wraps
from inspect import Parameter, Signature, signature
from itertools import starmap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

import medept
from medept.errors import SettingsError

if TYPE_CHECKING:
    from medept.evaluation.operating_points import OperatingAim

COLUMNS, ENCODER, MACHINE = "Table", "Encoder", "Machine and output"

Json = Annotated[
    bool,
    typer.Option("--json", help="Print the result as one JSON object.", rich_help_panel=MACHINE),
]
EncoderName = Annotated[
    str,
    typer.Option(
        "--encoder",
        metavar="NAME",
        help="`embedded`, a short name (`medept encoders` lists them), a timm name, "
        "hf-hub:OWNER/NAME, transformers:NAME, open_clip:NAME or a folder.",
        rich_help_panel=ENCODER,
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(
        "--encoder-weights",
        metavar="FILE",
        help="Local .safetensors file. Default: the embedded encoder's own weights, or those "
        "of the Hugging Face hub.",
        rich_help_panel=ENCODER,
    ),
]
ImageSize = Annotated[
    int | None,
    typer.Option(
        "--image-size",
        metavar="PIXELS",
        help="Height and width of the input, where it takes others. Default: the encoder's own.",
        rich_help_panel=ENCODER,
    ),
]
FitImage = Annotated[
    str,
    typer.Option(
        "--fit-image",
        metavar="HOW",
        help="What is done with images of other proportions than the encoder's input: crop (the "
        "sides are cut off), squeeze (proportions change), pad (with a border), or auto, what its "
        "own processor does.",
        rich_help_panel=ENCODER,
    ),
]
ReadoutName = Annotated[
    str,
    typer.Option(
        "--readout",
        metavar="PARTS[:BLOCKS]",
        help="What is read of the encoder: class, mean and std (of the patch tokens), joined by +, "
        "of the blocks last-N or all, such as class+std:all; or pooled, what its own classifier "
        "reads. auto: class+std:all for ridge and lda, else pooled.",
        rich_help_panel=ENCODER,
    ),
]
SymmetryName = Annotated[
    str,
    typer.Option(
        "--symmetry",
        metavar="NAME",
        help="Views that mean the same: none, flip (left to right), flips, turns (quarter turns), "
        "all (eight); with +corners as many corners of the enlarged image. Training sees them, and "
        "a prediction is their mean. auto: all+corners for ridge and lda, else flip in training. "
        "For images with an upright position try flips+corners.",
        rich_help_panel=ENCODER,
    ),
]
TestViews = Annotated[
    int | None,
    typer.Option(
        "--tta",
        metavar="N",
        help="Views that a prediction is the mean of, at most; 1 is the fastest. Default: all of "
        "the symmetry.",
        rich_help_panel=ENCODER,
    ),
]
Prevalence = Annotated[
    str,
    typer.Option(
        metavar="CLASS=P[,...]|data|estimate",
        help="How common classes are among the cases to be predicted, such as malignant=0.05; "
        "others share the rest. data: as in the labelled table (not for predict). estimate: from "
        "the images themselves, if they are many. Default: as in the support set, where a fixed "
        "number of shots makes classes equally common.",
        rich_help_panel="Decisions",
    ),
]
SubgroupColumns = Annotated[
    str,
    typer.Option(
        "--subgroups",
        metavar="NAME[:EDGE:...],...",
        help="Columns of the table, such as sex,age:40:60,site, to tell for whom it fails. Numbers "
        "are cut at the edges, or at their quartiles.",
        rich_help_panel="Decisions",
    ),
]
Device = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="auto (a GPU if there is one), cpu, cuda or mps.",
        rich_help_panel=MACHINE,
    ),
]
Precision = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="auto (bfloat16 where that is fast, else float32), float32, bfloat16 or float16.",
        rich_help_panel=MACHINE,
    ),
]
ImageColumn = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Column of image paths. Default: found by its name (image, path, file, ...).",
        rich_help_panel=COLUMNS,
    ),
]
LabelColumn = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Column of labels, or several columns of 0 and 1 separated by commas. Default: found "
        "by its name (label, class, ...).",
        rich_help_panel=COLUMNS,
    ),
]
GroupColumn = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Column of patients, studies or lesions; none of these is ever on both sides of a "
        "split. Default: found by its name (patient, study, ...).",
        rich_help_panel=COLUMNS,
    ),
]
CaseColumn = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Column of cases: the images of one (a patient, study or slide) have one label and "
        "one prediction. Default: each image is a case.",
        rich_help_panel=COLUMNS,
    ),
]
CaseOption = Annotated[
    Literal["folder"] | None,
    typer.Option(
        help="folder: the images in one folder are a case.",
        rich_help_panel=COLUMNS,
    ),
]
CaseLabelRule = Annotated[
    Literal["any", "majority", "max"] | None,
    typer.Option(
        help="How a case gets its label if those of its images differ: any (of two classes, or of "
        "labels), majority, or max (the last class in their order). Default: that is an error.",
        rich_help_panel=COLUMNS,
    ),
]
VOLUMES = "Volumes (NIfTI, DICOM series)"

PlaneOption = Annotated[
    Literal["axial", "coronal", "sagittal"] | None,
    typer.Option(
        help="Which slices of a volume are its images. Default: axial.", rich_help_panel=VOLUMES
    ),
]
Slices = Annotated[
    str | None,
    typer.Option(
        metavar="N|all",
        help="How many slices, evenly over the part that is not empty. Default: 16.",
        rich_help_panel=VOLUMES,
    ),
]
Window = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|L,W",
        help="Values that slices show: auto, lung, bone, soft, brain, or a level and a width, such "
        "as 40,400. Default: auto.",
        rich_help_panel=VOLUMES,
    ),
]
ChannelsOption = Annotated[
    Literal["grey", "neighbours"] | None,
    typer.Option(
        help="neighbours: the slice before, the slice and the one after it are red, green and "
        "blue. Default: grey.",
        rich_help_panel=VOLUMES,
    ),
]
ImageRoot = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Folder that image paths are relative to, and that holds all images. Default: the "
        "table's folder.",
        rich_help_panel=COLUMNS,
    ),
]
TaskName = Annotated[
    Literal["multiclass", "multilabel"] | None,
    typer.Option(
        "--task",
        metavar="NAME",
        help="multiclass (each image has one class) or multilabel (any number of labels). Default: "
        "multilabel if there are several label columns, or cells hold several labels.",
        rich_help_panel=COLUMNS,
    ),
]
ClassNames = Annotated[
    str | None,
    typer.Option(
        "--classes",
        metavar="NAME,NAME",
        help="The only classes allowed, in this order, with commas between them. Default: those "
        "found, sorted.",
        rich_help_panel=COLUMNS,
    ),
]
SubmissionFormat = Annotated[
    Literal["medfmc"] | None,
    typer.Option(
        "--format", help="medfmc: the challenge's submission files, for medfmc-TASK:FOLDER."
    ),
]
Plugins = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin",
        metavar="FILE",
        envvar="MEDEPT_PLUGINS",
        show_envvar=False,
        help="A Python file with methods of your own (or the name of a module); repeatable. Also "
        "read from the variable MEDEPT_PLUGINS.",
        rich_help_panel=MACHINE,
    ),
]
AdapterFolder = Annotated[
    Path, typer.Argument(metavar="DIR", help="Folder that `medept fit --out` wrote.")
]


Columns = dict[str, Any]
"""The options below as given, by name: arguments of :func:`medept.data.sources.open_dataset`."""

TABLE_OPTIONS = {
    "label_column": LabelColumn,
    "group_column": GroupColumn,
    "image_column": ImageColumn,
    "image_root": ImageRoot,
    "case_column": CaseColumn,
    "case": CaseOption,
    "case_label": CaseLabelRule,
    "plane": PlaneOption,
    "slices": Slices,
    "window": Window,
    "channels": ChannelsOption,
}


def label_options(task: str | None, classes: str | None) -> dict[str, Any]:
    """``--task`` and ``--classes`` as :func:`medept.data.sources.open_dataset` takes them."""
    names = None if classes is None else [name.strip() for name in classes.split(",")]
    return {"task": task, "classes": names}


def with_columns(verb: Callable[..., None]) -> Callable[..., None]:
    """Give a verb the options of a table, and pass them to it together as ``columns``."""

    @wraps(verb)
    def taking_each(**given: Any) -> None:
        verb(columns={name: given.pop(name) for name in TABLE_OPTIONS}, **given)

    found: list[Parameter] = []
    for parameter in signature(verb, eval_str=True).parameters.values():
        several = starmap(_option, TABLE_OPTIONS.items())
        found.extend(several if parameter.name == "columns" else [parameter])
    return _with_parameters(taking_each, found)


def with_plugins(verb: Callable[..., None]) -> Callable[..., None]:
    """Give a verb ``--plugin``, whose methods are there when it begins."""

    @wraps(verb)
    def loading(plugin: list[Path] | None, **given: Any) -> None:
        for each in plugin or ():
            medept.load_plugin(each)
        verb(**given)

    own = signature(verb, eval_str=True).parameters.values()
    return _with_parameters(loading, [*own, _option("plugin", Plugins)])


def _option(name: str, annotation: Any) -> Parameter:
    return Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _with_parameters(verb: Callable[..., None], found: list[Parameter]) -> Callable[..., None]:
    """The same with the signature that typer is to make options of."""
    verb.__signature__ = Signature(found)  # type: ignore[attr-defined]
    verb.__annotations__ = {one.name: one.annotation for one in found}
    return verb


def read_prevalence(text: str) -> dict[str, float] | str | None:
    """What ``--prevalence`` says; None if it was not given.

    >>> read_prevalence("malignant=0.05")
    {'malignant': 0.05}
    """
    if text in ("", "estimate", "data"):
        return text or None
    try:
        return {c: float(p) for c, p in read_pairs("--prevalence", text.split(",")).items()}
    except ValueError as error:
        raise SettingsError(f"--prevalence {text}: write CLASS=P with a number P") from error


def read_subgroups(text: str) -> dict[str, list[float]]:
    """The columns that ``--subgroups`` names, and where to cut them.

    >>> read_subgroups("sex,age:40:60")
    {'sex': [], 'age': [40.0, 60.0]}
    """
    found = {}
    for part in filter(None, text.split(",")):
        name, *edges = part.strip().split(":")
        try:
            found[name] = sorted(float(edge) for edge in edges)
        except ValueError as error:
            raise SettingsError(
                f"--subgroups {part}: write NAME, or NAME:EDGE:EDGE with numbers"
            ) from error
    return found


def read_aim(
    positive: str,
    sensitivity: float | None,
    specificity: float | None,
    threshold: float | None,
    cost: str,
    *,
    guarantee: bool,
) -> OperatingAim | None:
    """What the options of an operating point ask for; None if none is given."""
    from medept.evaluation.operating_points import OperatingAim

    numbers = sensitivity, specificity, threshold
    if not positive and not cost and not guarantee and all(x is None for x in numbers):
        return None
    names = tuple(name.strip() for name in positive.split(",") if name.strip())
    return OperatingAim(names, *numbers, _read_cost(cost) if cost else None, guarantee)


def _read_cost(cost: str) -> tuple[float, float]:
    """The costs of a missed positive and of a false alarm in ``fn=X,fp=Y``."""
    pairs = read_pairs("--cost", cost.split(","))
    try:
        if set(pairs) == {"fn", "fp"}:
            return float(pairs["fn"]), float(pairs["fp"])
    except ValueError:
        pass
    raise SettingsError(f"--cost {cost}: write fn=X,fp=Y with two numbers")


def read_pairs(option: str, pairs: list[str]) -> dict[str, str]:
    """Read the NAME=VALUE pairs of a repeatable option."""
    found: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not name or not equals:
            raise SettingsError(f"{option} {pair}: write NAME=VALUE")
        if found.setdefault(name, value) != value:
            raise SettingsError(
                f"{option} {name}={found[name]} and {name}={value}: give one of them"
            )
    return found


def read_settings(option: str, pairs: list[str]) -> dict[str, Any]:
    """The same, with values parsed as JSON where they are JSON, else as text."""
    settings: dict[str, Any] = {}
    for name, value in read_pairs(option, pairs).items():
        try:
            settings[name] = json.loads(value)
        except (ValueError, RecursionError):
            settings[name] = value
    return settings
