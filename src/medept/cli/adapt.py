"""Verbs that make an adapter and use it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape
from rich.table import Table

from medept.cli.app import ADAPT, app
from medept.cli.console import notes, print_json, print_metrics, progress_bars, results
from medept.cli.options import (
    AdapterFolder,
    Device,
    EncoderName,
    GroupColumn,
    ImageColumn,
    ImageSize,
    Json,
    LabelColumn,
    Precision,
    SubmissionFormat,
    Weights,
    read_settings,
)
from medept.errors import InputError

if TYPE_CHECKING:
    from medept.training.loop import Progress as Report


SUPPORT, METHOD, TRAINING = "Support set", "Method", "Training"


@app.command(rich_help_panel=ADAPT)
def fit(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            help="A CSV or Parquet table with image paths and labels, a folder with one subfolder "
            "per class, or NAME:FOLDER of a data set that `medept datasets` lists.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write the adapter and its results to.")],
    shots: Annotated[
        str,
        typer.Option(
            metavar="K|all",
            help="Shots per class (patients, where there is a column of them), or a share such as "
            "20%: the rest is the test set. `all`: everything, or the `split` column's train rows.",
            rich_help_panel=SUPPORT,
        ),
    ] = "all",
    episode: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="An official support set (exp1), or a list that `medept episodes` wrote; default: "
            "drawn by the seed.",
            rich_help_panel=SUPPORT,
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Of the support set, initial values and views.",
            rich_help_panel=SUPPORT,
        ),
    ] = 0,
    label_column: LabelColumn = None,
    group_column: GroupColumn = None,
    image_column: ImageColumn = None,
    encoder: EncoderName = "embedded",
    encoder_weights: Weights = None,
    image_size: ImageSize = None,
    method: Annotated[
        str,
        typer.Option(metavar="NAME", help="`medept methods` lists them.", rich_help_panel=METHOD),
    ] = "ept",
    prompt_length: Annotated[
        int | None,
        typer.Option(
            metavar="L",
            help="Length of a prompt; default: in proportion to the tokens.",
            rich_help_panel=METHOD,
        ),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="A setting of the method, e.g. layers=9-12; again for more. `medept methods` "
            "lists them.",
            rich_help_panel=METHOD,
        ),
    ] = None,
    tune: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Try so many settings and learning rates by cross-validation over groups inside "
            "the support set; what is given is not searched over.",
            rich_help_panel=METHOD,
        ),
    ] = 0,
    recipe: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="medept (simply works) or paper (Zu et al. 2024). It gives what is left out of "
            "the next four.",
            rich_help_panel=TRAINING,
        ),
    ] = "medept",
    epochs: Annotated[
        int | None,
        typer.Option(metavar="N", help="Passes over the support set.", rich_help_panel=TRAINING),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(metavar="N", help="Images a step.", rich_help_panel=TRAINING)
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(metavar="X", help="Learning rate of the head.", rich_help_panel=TRAINING),
    ] = None,
    encoder_lr: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Learning rate inside the encoder (prompts).",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    recipe_setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set-recipe",
            metavar="NAME=VALUE",
            help="Another part of the recipe: optimizer, weight_decay, head_epochs, crop_scale, "
            "views, standardise, or micro_batch (images at once); again for more.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    calibrate: Annotated[
        Literal["temperature", "vector", "isotonic", "none"],
        typer.Option(
            metavar="KIND",
            help="How logits become probabilities: temperature, vector, isotonic or none. Fitted "
            "by cross-validation inside the support set, which takes as long again as training "
            "(twice, where the encoder stays as it is).",
            rich_help_panel=TRAINING,
        ),
    ] = "temperature",
    device: Device = "auto",
    precision: Precision = "auto",
    as_json: Json = False,
) -> None:
    """Fit an adapter to labelled images, and evaluate it on images kept apart."""
    from medept import jobs
    from medept.classifier import FewShotClassifier
    from medept.data.episodes import read_shots
    from medept.data.sources import official_list, open_dataset

    shot_count = read_shots(shots)
    chosen = official_list(data, shot_count, episode) if episode else None
    settings = read_settings("--set", setting or [])
    if prompt_length is not None:
        settings["length"] = prompt_length
    table = open_dataset(
        data, image_column=image_column, label_column=label_column, group_column=group_column
    )
    with progress_bars() as report:
        classifier = FewShotClassifier(
            encoder,
            method,
            encoder_weights=encoder_weights,
            image_size=image_size,
            settings=settings,
            recipe=recipe,
            epochs=epochs,
            batch_size=batch_size,
            lr=lr,
            encoder_lr=encoder_lr,
            recipe_settings=read_settings("--set-recipe", recipe_setting or []),
            tune=tune,
            seed=seed,
            device=device,
            precision=precision,
            calibrate=calibrate,
            progress=report,
        )
        result = jobs.fit(table, out, classifier, shots=shot_count, episode=chosen)
    if as_json:
        metrics = result.evaluation.to_dict() if result.evaluation else None
        print_json(
            {
                "out": str(out),
                "encoder": encoder,
                "method": method,
                "classes": result.info.classes,
                "trainable_parameters": result.info.trainable_parameters,
                "support": result.support,
                "test": result.test,
                "metrics": metrics,
            }
        )
        return
    notes.print(
        f"{method} on {encoder}: {result.info.trainable_parameters:,} trained parameters, "
        f"{result.support} support images, {result.test} test images"
    )
    notes.print(f"Probabilities: {result.info.calibration}")
    if result.evaluation:
        print_metrics(result.evaluation)
    else:
        notes.print(
            "No test images: give --shots K, or a table with a `split` column."
            if shot_count is None
            else "No test images: every image, or another of its group, is in the support set."
        )
    notes.print(
        f"Written to {out}: open {out}/report.html to read about it.\n"
        f"Next: medept predict {out} IMAGES... --out predictions.csv"
    )


@app.command(rich_help_panel=ADAPT)
def predict(
    adapter: AdapterFolder,
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGES", help="Image files, or folders of them.")
    ],
    out: Annotated[Path, typer.Option(help="CSV file to write: one row an image.")],
    form: SubmissionFormat = None,
    names: Annotated[
        str, typer.Option("--list", help="With --format: the list of images to predict.")
    ] = "test_WithoutLabel.txt",
    encoder_weights: Weights = None,
    device: Device = "auto",
    precision: Precision = "auto",
    as_json: Json = False,
) -> None:
    """Probabilities of each class for new images."""
    from medept import jobs

    with progress_bars() as report:
        classifier = _load(adapter, encoder_weights, device, precision, report)
        if form is None:
            table = jobs.predict(classifier, jobs.find_images(images), out)
        else:
            table = jobs.predict_submission(classifier, str(images[0]), names, out)
    if as_json:
        print_json({"out": str(out), "predictions": table.to_dict(orient="records")})
    else:
        notes.print(f"{len(table)} images. Written to {out}")


@app.command(rich_help_panel=ADAPT)
def evaluate(
    adapter: AdapterFolder,
    data: Annotated[
        list[Path],
        typer.Argument(metavar="DATA", help="What `fit` takes; with --format, submission files."),
    ],
    form: SubmissionFormat = None,
    label_column: LabelColumn = None,
    group_column: GroupColumn = None,
    image_column: ImageColumn = None,
    encoder_weights: Weights = None,
    device: Device = "auto",
    precision: Precision = "auto",
    as_json: Json = False,
) -> None:
    """Metrics of an adapter on labelled images that it was not fitted to.

    Its support images, and others of their patients, are left out; so are all but the test rows
    where there is a split column.

    With --format medfmc, of submission files: medept evaluate medfmc-colon:FOLDER FILES...
    """
    from medept import jobs
    from medept.data.sources import open_dataset

    if form is not None:
        scores = jobs.score_submissions(str(adapter), data)
        if as_json:
            print_json({str(file): result.to_dict() for file, result in scores.items()})
        for file, result in {} if as_json else scores.items():
            results.print(f"\n{file}", markup=False)
            print_metrics(result)
        return
    if len(data) > 1:
        raise InputError(f"{data[1]}: one table or folder is evaluated at a time")
    with progress_bars() as report:
        classifier = _load(adapter, encoder_weights, device, precision, report)
        table = open_dataset(
            data[0],
            image_column=image_column,
            label_column=label_column,
            group_column=group_column,
            classes=[str(name) for name in classifier.classes_],
            task=classifier.task_,
        )
        result = jobs.evaluate_unseen(classifier, table, adapter)
    if as_json:
        print_json(result.to_dict())
    else:
        print_metrics(result)


@app.command(rich_help_panel=ADAPT)
def embed(
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGES", help="Image files, or folders of them.")
    ],
    out: Annotated[Path, typer.Option(help="File to write: .npy, .csv or .parquet.")],
    adapter: Annotated[
        Path | None, typer.Option(help="Features as adapted by this fit, not as they came.")
    ] = None,
    encoder: EncoderName = "embedded",
    encoder_weights: Weights = None,
    image_size: ImageSize = None,
    device: Device = "auto",
    precision: Precision = "auto",
    as_json: Json = False,
) -> None:
    """Features of images: one row an image."""
    from medept import jobs
    from medept.classifier import FewShotClassifier

    if adapter and (encoder != "embedded" or image_size):
        raise InputError("--adapter brings its own encoder: leave --encoder and --image-size out")
    with progress_bars() as report:
        classifier = (
            _load(adapter, encoder_weights, device, precision, report)
            if adapter
            else FewShotClassifier(
                encoder,
                encoder_weights=encoder_weights,
                image_size=image_size,
                device=device,
                precision=precision,
                progress=report,
            )
        )
        features = jobs.embed(classifier, jobs.find_images(images), out)
    if as_json:
        print_json({"out": str(out), "shape": list(features.shape)})
    else:
        notes.print(f"{features.shape[0]} images x {features.shape[1]} features. Written to {out}")


@app.command(rich_help_panel=ADAPT)
def info(adapter: AdapterFolder, as_json: Json = False) -> None:
    """What an adapter is: encoder, classes, method, settings, how it was trained."""
    from medept.adapter import read_info

    description = read_info(adapter)
    if as_json:
        print_json(description.model_dump())
        return
    table = Table(show_header=False, box=None)
    shown = description.model_dump() | {"calibration": str(description.calibration)}
    for key, value in shown.items():
        table.add_row(key.replace("_", " "), escape(_plain(value)))
    results.print(table)


@app.command(rich_help_panel=ADAPT)
def demo(
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("medept-demo"),
    as_json: Json = False,
) -> None:
    """The whole story on data that medept draws itself: no network, a few minutes."""
    from medept.demo import run_demo, summary

    notes.print(
        "Phantoms of colon tissue, 60 patients, 2 tiles each; the encoder that ships inside medept."
    )
    with progress_bars() as report:
        result = run_demo(out, report)
    if as_json:
        print_json({"out": str(out), "runs": result.runs.to_dict(orient="records")})
        return
    for metric in ("balanced_accuracy", "auroc"):
        shown = summary(result.runs, metric)
        heads = ("1 shot" if s == 1 else f"{s} shots" for s in shown.columns)
        table = Table("method", *heads, title=metric.replace("_", " "))
        for method, values in shown.iterrows():
            table.add_row(str(method), *values)
        results.print(table)
    notes.print(
        f"Mean ± standard deviation over {result.runs.seed.nunique()} support sets of patients.\n"
        f"Written to {out}: an adapter with its report (adapter/report.html), all runs, "
        f"and pictures (phantoms.png, shots.png).\n"
        f"Next: medept predict {out}/adapter {out}/colon-phantoms --out p.csv"
    )


def _plain(value: Any) -> str:
    """A value of ``adapter.json`` as a person would write it."""
    if isinstance(value, dict):
        return "\n".join(f"{key.replace('_', ' ')}: {_plain(part)}" for key, part in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "–" if value is None else str(value)


def _load(folder: Path, weights: Path | None, device: str, precision: str, report: Report) -> Any:
    from medept.classifier import FewShotClassifier

    return FewShotClassifier.load(
        folder, encoder_weights=weights, device=device, precision=precision, progress=report
    )
