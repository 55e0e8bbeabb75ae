"""The verb that makes an adapter: `fit`."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from medept.cli.app import ADAPT, app
from medept.cli.console import notes, print_json, print_metrics, progress_bars, resumable
from medept.cli.options import (
    ENCODER,
    ClassNames,
    Columns,
    Device,
    FitImage,
    ImageSize,
    Json,
    Precision,
    Prevalence,
    ReadoutName,
    SubgroupColumns,
    SymmetryName,
    TaskName,
    TestViews,
    label_options,
    read_aim,
    read_prevalence,
    read_settings,
    read_subgroups,
    with_columns,
    with_plugins,
)
from medept.errors import SettingsError
from medept.progress import is_main_process

if TYPE_CHECKING:
    from medept.workflows.fit import FitResult

SUPPORT, METHOD, TRAINING = "Support set", "Method", "Training"
DECIDE = "Decisions"


@app.command(rich_help_panel=ADAPT)
@with_plugins
@with_columns
def fit(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            help="A CSV or Parquet table with image paths and labels; a folder with one subfolder "
            "per class (or with train and test folders that hold these); or NAME:FOLDER, with NAME "
            "a data set that `medept datasets` lists.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="New folder for the adapter and its results.")],
    shots: Annotated[
        str,
        typer.Option(
            metavar="K|P%|all",
            help="Shots per class (a shot is a case if there are cases, else a patient if there is "
            "a column of patients, else an image), or a percentage such as 20%; the rest is the "
            "test set. `all`: everything, or the train rows of the `split` column.",
            rich_help_panel=SUPPORT,
        ),
    ] = "all",
    episode: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="An official support set such as exp1, or a list that `medept episodes` wrote. By "
            "default the support set is drawn by the seed.",
            rich_help_panel=SUPPORT,
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Seed of the support set, of initial values and of augmented views.",
            rich_help_panel=SUPPORT,
        ),
    ] = 0,
    *,
    columns: Columns,
    task: TaskName = None,
    classes: ClassNames = None,
    encoder: Annotated[
        list[str],
        typer.Option(
            metavar="NAME",
            help="`embedded`, a timm name (`medept encoders`), transformers:NAME or "
            "open_clip:NAME. Give it again for a second encoder: their probabilities are averaged.",
            rich_help_panel=ENCODER,
        ),
    ] = ["embedded"],  # noqa: B006, typer copies it
    encoder_weights: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Local .safetensors file; default: the encoder's own, or those of the hub. With "
            "several encoders one for each, or for each but `embedded`.",
            rich_help_panel=ENCODER,
        ),
    ] = None,
    image_size: ImageSize = None,
    readout: ReadoutName = "auto",
    symmetry: SymmetryName = "auto",
    tta: TestViews = None,
    fit_image: FitImage = "auto",
    method: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Method: `medept methods` lists them; auto takes the most accurate one.",
            rich_help_panel=METHOD,
        ),
    ] = "auto",
    pool: Annotated[
        Literal["mean", "max", "attention"],
        typer.Option(
            help="How the features of a case come from those of its images: mean, max (of each "
            "feature), or attention, which learns which images matter (for methods on frozen "
            "features).",
            rich_help_panel=METHOD,
        ),
    ] = "mean",
    prompt_length: Annotated[
        int | None,
        typer.Option(
            metavar="L",
            help="Length of the prompts; the same as --set length=L.",
            rich_help_panel=METHOD,
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="A setting of the method, such as length=20; repeatable. `medept methods NAME` "
            "lists them.",
            rich_help_panel=METHOD,
        ),
    ] = None,
    tune: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Try N combinations of settings and learning rates, by cross-validation over "
            "groups inside the support set. What you give is not searched over.",
            rich_help_panel=METHOD,
        ),
    ] = 0,
    recipe: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="How to train: medept, or paper (Zu et al. 2024). The options below replace parts "
            "of it.",
            rich_help_panel=TRAINING,
        ),
    ] = "medept",
    epochs: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Passes over the support set. In the recipe medept the first half of them train "
            "the head alone (none do with --set-recipe head_first=0).",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(metavar="N", help="Images per step.", rich_help_panel=TRAINING)
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(metavar="X", help="Learning rate of the head.", rich_help_panel=TRAINING),
    ] = None,
    encoder_lr: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Learning rate of what is trained inside the encoder, such as prompts.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    recipe_settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set-recipe",
            metavar="NAME=VALUE",
            help="Another part of the recipe: optimizer, warmup, weight_decay, "
            "encoder_weight_decay, head_first, crop_scale, views, standardise, images_per_case, or "
            "micro_batch (images computed at once); repeatable.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    calibrate: Annotated[
        Literal["temperature", "vector", "isotonic", "none"],
        typer.Option(
            metavar="KIND",
            help="How to calibrate probabilities: temperature, vector, isotonic or none. It is "
            "fitted by cross-validation inside the support set, which takes as long as training "
            "does (twice as long for methods that leave the encoder unchanged).",
            rich_help_panel=TRAINING,
        ),
    ] = "temperature",
    positive: Annotated[
        str,
        typer.Option(
            metavar="CLASS[,CLASS]",
            help="Decide between these classes together and the rest, at a threshold that is "
            "chosen by cross-validation inside the support set. With several labels: the labels "
            "to decide on, each for itself (default: all).",
            rich_help_panel=DECIDE,
        ),
    ] = "",
    sensitivity: Annotated[
        float | None,
        typer.Option(
            metavar="P",
            help="Choose the highest threshold that finds this proportion of positives.",
            rich_help_panel=DECIDE,
        ),
    ] = None,
    specificity: Annotated[
        float | None,
        typer.Option(
            metavar="P",
            help="Choose the lowest threshold that leaves this proportion of negatives alone.",
            rich_help_panel=DECIDE,
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(metavar="P", help="The threshold itself.", rich_help_panel=DECIDE),
    ] = None,
    cost: Annotated[
        str,
        typer.Option(
            metavar="fn=X,fp=Y",
            help="Choose the threshold of least cost: X for a missed positive, Y for a false "
            "alarm, as common as they are in the support set.",
            rich_help_panel=DECIDE,
        ),
    ] = "",
    guarantee: Annotated[
        bool,
        typer.Option(
            "--guarantee",
            help="Bound the sensitivity or specificity by conformal risk control over groups, and "
            "say what can be promised where the support set is too small.",
            rich_help_panel=DECIDE,
        ),
    ] = False,
    subgroups: SubgroupColumns = "",
    coverage: Annotated[
        float,
        typer.Option(
            metavar="P",
            help="How often the prediction set of a case (column `set`) is to contain the truth.",
            rich_help_panel=DECIDE,
        ),
    ] = 0.9,
    false_alarms: Annotated[
        float,
        typer.Option(
            metavar="P",
            help="Share of images like those of the support set that may be told to be unfamiliar "
            "(column `unfamiliar`).",
            rich_help_panel=DECIDE,
        ),
    ] = 0.05,
    calibrate_on: Annotated[
        Path | None,
        typer.Option(
            metavar="DATA",
            help="Labelled images of further patients, with columns as in DATA, on which to find "
            "the thresholds of prediction sets. Default: held-out folds of the support set.",
            rich_help_panel=DECIDE,
        ),
    ] = None,
    prevalence: Prevalence = "",
    device: Device = "auto",
    precision: Precision = "auto",
    as_json: Json = False,
) -> None:
    """Fit an adapter to labelled images, and evaluate it on held-out ones."""
    from medept.classifier.classifier import FewShotClassifier
    from medept.data.sources import official_list, open_dataset
    from medept.episodes.draw import parse_shots
    from medept.workflows.evaluate import cut_subgroups
    from medept.workflows.fit import fit as fit_to_table

    shot_count = parse_shots(shots)
    if episode and Path(episode).is_file() and shot_count is not None:
        raise SettingsError(f"{episode} is the support set: leave --shots {shots} out")
    chosen = official_list(data, shot_count, episode) if episode else None
    chosen_settings = read_settings("--set", settings or [])
    if (
        prompt_length is not None
        and chosen_settings.setdefault("length", prompt_length) != prompt_length
    ):
        raise SettingsError("--prompt-length and --set length=... differ: give one of them")
    aim = read_aim(positive, sensitivity, specificity, threshold, cost, guarantee=guarantee)
    edges = read_subgroups(subgroups)
    table = open_dataset(data, **columns, **label_options(task, classes), subgroups=list(edges))
    table = cut_subgroups(table, edges)
    further = None
    if calibrate_on is not None:
        meaning = {"classes": table.classes, "task": table.task}
        further = open_dataset(calibrate_on, **columns, **meaning)
    with resumable(), progress_bars() as report:
        classifier = FewShotClassifier(
            encoder if len(encoder) > 1 else encoder[0],
            method,
            encoder_weights=encoder_weights,
            image_size=image_size,
            readout=readout,
            symmetry=symmetry,
            tta=tta,
            fit_image=fit_image,
            settings=chosen_settings,
            recipe=recipe,
            epochs=epochs,
            batch_size=batch_size,
            lr=lr,
            encoder_lr=encoder_lr,
            recipe_settings=read_settings("--set-recipe", recipe_settings or []),
            tune=tune,
            seed=seed,
            device=device,
            precision=precision,
            calibrate=calibrate,
            pool=pool,
            prevalence=read_prevalence(prevalence),
            operating_aim=aim,
            coverage=coverage,
            false_alarms=false_alarms,
            progress=report,
        )
        result = fit_to_table(
            table, out, classifier, shots=shot_count, episode=chosen, calibrate_on=further
        )
    if not is_main_process():
        return
    if as_json:
        print_json(_as_dict(result))
    else:
        _show(result)


def _as_dict(result: FitResult) -> dict[str, object]:
    info = result.info
    return {
        "out": str(result.folder),
        "encoder": info.encoder.name,
        "method": info.method,
        "classes": info.classes,
        "trainable_parameters": info.trainable_parameters,
        "support": result.support,
        "test": result.test,
        "metrics": result.evaluation.to_dict() if result.evaluation else None,
    }


def _show(result: FitResult) -> None:
    info, out = result.info, result.folder
    units = "cases" if info.support_cases else "images"
    notes.print(
        f"{info.method} on {info.encoder.name}: {info.trainable_parameters:,} trained parameters, "
        f"{result.support} support {units}, {result.test} test {units}"
    )
    if info.support_cases and info.pool == "mean":
        notes.print(
            "The images of a case are pooled by their mean: if few of them show what is looked "
            "for, compare --pool max"
        )
    notes.print(f"Probabilities: {info.calibration}")
    for point in info.operating_points:
        notes.print(
            f"Decision: {point.name} from a probability of {point.threshold:.3f} ({point.aim})"
        )
    if result.evaluation:
        print_metrics(result.evaluation)
    notes.print(
        f"Written to {out}: open {out}/report.html to read about it.\n"
        f"Next: medept predict {quote(str(out))} IMAGES... --out predictions.csv"
    )
