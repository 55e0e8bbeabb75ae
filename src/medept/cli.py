"""The command ``medept``: few verbs, and errors that say what to do."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from medept.errors import InputError

if TYPE_CHECKING:
    from medept.evaluation.metrics import Evaluation
    from medept.training.loop import Progress as Report

app = typer.Typer(
    name="medept",
    help="Adapt frozen vision foundation models to medical images from a few labelled examples.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
notes = Console(stderr=True, highlight=False, soft_wrap=True)
results = Console(highlight=False)

Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
EncoderName = Annotated[
    str, typer.Option("--encoder", help="Encoder by name: `medept encoders` lists them.")
]
Weights = Annotated[
    Path | None,
    typer.Option("--encoder-weights", help="Local .safetensors file with the encoder's weights."),
]
ImageSize = Annotated[
    int | None, typer.Option("--image-size", help="Pixels a side; default: the encoder's own.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Precision = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")]
ImageColumn = Annotated[
    str | None, typer.Option(help="Column of image paths; found by its name if not given.")
]
LabelColumn = Annotated[
    str | None,
    typer.Option(help="Column of labels, or several 0/1 columns joined by commas (multi-label)."),
]
GroupColumn = Annotated[
    str | None,
    typer.Option(help="Column of patients, studies or lesions; never on both sides of a split."),
]
SubmissionFormat = Annotated[
    Literal["medfmc"] | None,
    typer.Option(
        "--format", help="medfmc: the challenge's submission files, of medfmc-TASK:FOLDER."
    ),
]
AdapterFolder = Annotated[
    Path, typer.Argument(metavar="DIR", help="What `medept fit --out` wrote.")
]


@app.command()
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
    encoder: EncoderName = "embedded",
    encoder_weights: Weights = None,
    image_size: ImageSize = None,
    method: Annotated[str, typer.Option(help="`medept methods` lists them.")] = "ept",
    shots: Annotated[
        str,
        typer.Option(
            help="Shots per class (groups where there is a group column), or a share such as 20%: "
            "the rest is the test set. `all`: everything, or the `split` column's train rows."
        ),
    ] = "all",
    episode: Annotated[
        str | None,
        typer.Option(
            help="An official support set (exp1), or a list that `medept episodes` wrote; default: "
            "drawn by the seed."
        ),
    ] = None,
    label_column: LabelColumn = None,
    group_column: GroupColumn = None,
    image_column: ImageColumn = None,
    seed: Annotated[int, typer.Option(help="Of the support set, initial values and views.")] = 0,
    recipe: Annotated[
        str, typer.Option(help="How to train: medept (simply works) or paper (Zu et al. 2024).")
    ] = "medept",
    epochs: Annotated[int | None, typer.Option(help="Default: the recipe's.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Default: the recipe's.")] = None,
    lr: Annotated[
        float | None, typer.Option(help="Learning rate of the head; default: the recipe's.")
    ] = None,
    encoder_lr: Annotated[
        float | None,
        typer.Option(help="Learning rate inside the encoder (prompts); default: the recipe's."),
    ] = None,
    prompt_length: Annotated[
        int | None, typer.Option(help="Prompt length L; default: in proportion to the tokens.")
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="A setting of the method, e.g. layers=9-12."
        ),
    ] = None,
    tune: Annotated[
        int,
        typer.Option(help="Try this many settings by cross-validation inside the support set."),
    ] = 0,
    calibrate: Annotated[
        Literal["temperature", "vector", "isotonic", "none"],
        typer.Option(
            help="How logits become probabilities: fitted by cross-validation inside the support "
            "set, which takes as long again as training (twice, where the encoder stays as it is)."
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
    settings = _settings(setting or [])
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
        notes.print("No test images: give --shots K, or a table with a `split` column.")
    notes.print(
        f"Written to {out}: open {out}/report.html to read about it.\n"
        f"Next: medept predict {out} IMAGES... --out predictions.csv"
    )


@app.command()
def predict(
    adapter: AdapterFolder,
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")],
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


@app.command()
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
    """Metrics of an adapter on labelled images (the test rows, where there is a split column).

    With --format medfmc, of submission files: medept evaluate medfmc-colon:FOLDER FILES...
    """
    from medept import evaluation as metrics
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
        if table.splits is not None:
            table = table.subset((table.splits == "test").nonzero()[0])
        result = metrics.evaluate(
            classifier.predict_proba(table.images),
            table.targets,
            classes=table.classes,
            groups=table.groups,
        )
    if as_json:
        print_json(result.to_dict())
    else:
        print_metrics(result)


@app.command()
def info(adapter: AdapterFolder, as_json: Json = False) -> None:
    """What an adapter is: encoder, classes, method, settings, how it was trained."""
    from medept.adapter import read_info

    description = read_info(adapter).model_dump()
    if as_json:
        print_json(description)
        return
    table = Table(show_header=False, box=None)
    for key, value in description.items():
        table.add_row(key.replace("_", " "), value if isinstance(value, str) else json.dumps(value))
    results.print(table)


@app.command()
def embed(
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")],
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


@app.command()
def encoders(
    pattern: Annotated[
        str, typer.Argument(help="Show timm names with this in them, `*` for any text.")
    ] = "vit_*",
    as_json: Json = False,
) -> None:
    """Names that --encoder takes."""
    import timm

    names = ["embedded", *timm.list_models(pattern if "*" in pattern else f"*{pattern}*")]
    if as_json:
        print_json({"encoders": names})
        return
    results.print("embedded        ships inside medept, needs no network")
    results.print("\n".join(names[1:]) or f"no timm model has {pattern!r} in its name")


@app.command()
def methods(as_json: Json = False) -> None:
    """Names that --method takes, and their settings."""
    from medept.methods import METHODS
    from medept.training.recipes import make_recipe

    if as_json:
        print_json(
            {
                name: {
                    "summary": method.summary,
                    "settings": method.Settings().model_dump(),
                    "recipe": make_recipe(method=name).model_dump(),
                }
                for name, method in METHODS.items()
            }
        )
        return
    table = Table("method", "what is trained", "settings (--set NAME=VALUE) and their defaults")
    for name, method in METHODS.items():
        settings = ", ".join(f"{k}={v}" for k, v in method.Settings().model_dump().items())
        table.add_row(name, method.summary, settings)
    results.print(table)


@app.command()
def phantoms(
    task: Annotated[str, typer.Argument(help="colon, chest or endo.")],
    out: Annotated[Path, typer.Option(help="Folder to write images and labels.csv to.")],
    patients: Annotated[int, typer.Option(help="How many patients.")] = 60,
    images_per_patient: Annotated[int, typer.Option(help="Images of each.")] = 4,
    size: Annotated[int, typer.Option(help="Pixels a side.")] = 96,
    difficulty: Annotated[float, typer.Option(help="From 0 (easy) to 1.")] = 0.5,
    seed: Annotated[int, typer.Option(help="The same seed draws the same bytes.")] = 0,
    as_json: Json = False,
) -> None:
    """Draw a data set of made-up patients, to try things on."""
    from medept.data.phantoms import make_phantoms, write_phantoms

    data = make_phantoms(
        task,
        patients=patients,
        images_per_patient=images_per_patient,
        size=size,
        difficulty=difficulty,
        seed=seed,
    )
    table = write_phantoms(data, out)
    if as_json:
        print_json({"table": str(table), "images": len(data), "classes": list(data.classes)})
    else:
        notes.print(f"{len(data)} images of {patients} patients. Next: medept fit {table} ...")


@app.command()
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
        table = Table("method", *(f"{s} shots" for s in shown.columns), title=metric)
        for method, values in shown.iterrows():
            table.add_row(str(method), *values)
        results.print(table)
    notes.print(
        f"Mean ± standard deviation over {result.runs.seed.nunique()} support sets of patients.\n"
        f"Written to {out}: an adapter with its report (adapter/report.html), all runs, "
        f"and pictures (phantoms.png, shots.png).\n"
        f"Next: medept predict {out}/adapter {out}/colon-phantoms --out p.csv"
    )


@app.command()
def bench(
    suite: Annotated[
        str, typer.Argument(help="A suite's YAML file, or the name of one: --list shows them.")
    ] = "quick",
    out: Annotated[
        Path, typer.Option(help="Folder of runs and results; continued if it is there.")
    ] = Path("medept-bench"),
    data: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=DATA", help="A data set: adds to, or fills in, the suite's."),
    ] = None,
    encoder: Annotated[str | None, typer.Option(help="Instead of the suite's encoders.")] = None,
    encoder_weights: Weights = None,
    image_size: ImageSize = None,
    method: Annotated[
        list[str] | None, typer.Option("--method", help="Only these of the suite's methods.")
    ] = None,
    episodes: Annotated[int | None, typer.Option(help="How many support sets.")] = None,
    workers: Annotated[
        int | None, typer.Option(help="Runs at a time; default: one a core.")
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="Of a Ray cluster; default: this machine.")
    ] = None,
    show: Annotated[
        bool, typer.Option("--list", help="List the suites that ship with medept.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Run a benchmark: data sets, methods, shots, episodes; resumable; on one machine or many."""
    from medept.benchmark.suite import read_suite, shipped_suites

    if show:
        suites = {name: found.title for name, found in shipped_suites().items()}
        if as_json:
            print_json(suites)
        else:
            results.print("\n".join(f"{name:14} {title}" for name, title in suites.items()))
        return
    from medept.benchmark.runner import run_suite

    places = {name: _place(name, source) for name, source in _pairs("--data", data or []).items()}
    changes: dict[str, Any] = {"data": places, "episodes": episodes}
    if encoder:
        weights = str(encoder_weights.resolve()) if encoder_weights else None
        changes["encoders"] = [{"name": encoder, "weights": weights, "image_size": image_size}]
    chosen = read_suite(suite, **changes)
    if method:
        chosen = chosen.only(method)
    with progress_bars() as report:
        rows = run_suite(chosen, out, workers=workers, address=address, progress=report)
    failed = rows[rows.error != ""]
    if as_json:
        print_json({"out": str(out), "runs": len(rows), "failed": len(failed)})
    else:
        notes.print(
            f"{len(rows)} runs, {len(failed)} of them failed. Written to {out}/results.parquet\n"
            f"Next: medept report {out}"
        )


@app.command()
def tiles(
    slide: Annotated[Path, typer.Argument(metavar="SLIDE", help="A whole-slide file.")],
    out: Annotated[Path, typer.Option(help="Folder to write tiles and their table to.")],
    size: Annotated[int, typer.Option(help="Pixels along a tile's side.")] = 224,
    mpp: Annotated[float, typer.Option(help="Micrometres a pixel of the tiles.")] = 0.5,
    slide_mpp: Annotated[
        float | None, typer.Option(help="Of the slide's finest level; default: what it says.")
    ] = None,
    tissue: Annotated[float, typer.Option(help="Least share of tissue in a tile, 0 to 1.")] = 0.25,
    as_json: Json = False,
) -> None:
    """Cut the tissue of a whole slide into tiles; run it again to go on after a stop."""
    from medept.data.slides import write_tiles

    with progress_bars() as report:
        table = write_tiles(
            slide, out, size=size, mpp=mpp, slide_mpp=slide_mpp, tissue=tissue, progress=report
        )
    if as_json:
        print_json({"out": str(out), "tiles": len(table)})
    else:
        notes.print(f"{len(table)} tiles. Their table: {out / slide.stem}.csv")


@app.command()
def check(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Table or folder, as for `fit`.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder to write check.html and findings.csv to.")
    ] = None,
    label_column: LabelColumn = None,
    group_column: GroupColumn = None,
    image_column: ImageColumn = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Look for what would flatter a result: copies, patients on both sides, labels that look wrong.

    Exit code 1 if anything would.
    """
    from medept import jobs
    from medept.data.sources import open_dataset
    from medept.report import check_page

    table = open_dataset(
        data, image_column=image_column, label_column=label_column, group_column=group_column
    )
    with progress_bars() as report:
        found = jobs.check(table, device=device, progress=report)
    if out is not None:
        check_page.write_check(found, data.name, out)
    if as_json:
        print_json(check_page.as_dict(found))
    else:
        results.print(check_page.as_text(found, data.name))
        if out is not None:
            notes.print(f"Written to {out}: check.html, findings.csv")
    raise typer.Exit(int(found.flatters))


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What `fit` or `bench` wrote.")],
    data: Annotated[
        Path | None,
        typer.Argument(metavar="[DATA]", help="Of a fit: for small pictures of its images."),
    ] = None,
    label_column: LabelColumn = None,
    group_column: GroupColumn = None,
    image_column: ImageColumn = None,
    as_json: Json = False,
) -> None:
    """Write DIR/report.html: of a fit (again), or of a benchmark, with its tables and figures."""
    from medept.data.sources import open_dataset
    from medept.report.benchmark_page import write_benchmark
    from medept.report.fit_page import write_fit_page

    images = None
    if data is not None:
        table = open_dataset(
            data, image_column=image_column, label_column=label_column, group_column=group_column
        )
        images = dict(zip(table.names, table.images, strict=True))
    benchmark = (folder / "suite.json").exists()
    written = write_benchmark(folder) if benchmark else write_fit_page(folder, images)
    if as_json:
        print_json({"out": str(written)})
    else:
        notes.print(f"Written to {written}")


@app.command()
def analyse(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL... DATA",
            help="Adapters' folders or encoders' names, and last the data, as for `fit`.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write tables and figures to.")],
    of_class: Annotated[
        str | None, typer.Option("--class", help="Of figure 2 (a) and (b); default: the largest.")
    ] = None,
    embedding: Annotated[
        Literal["tsne", "pca"], typer.Option(help="How figure 2 (b) and (c) are projected.")
    ] = "tsne",
    separate: Annotated[
        bool, typer.Option("--separate", help="A projection for each panel, as in the paper.")
    ] = False,
    images: Annotated[int, typer.Option(min=10, help="At most so many, drawn at random.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of the draw and the projection.")] = 0,
    label_column: LabelColumn = None,
    group_column: GroupColumn = None,
    image_column: ImageColumn = None,
    as_json: Json = False,
) -> None:
    """How features of a class lie together, before and after tuning, and what prompts turn down.

    Adapters of one method count as episodes of it. Images that an adapter was fitted to, and
    others of their groups, are left out.
    """
    from medept.adapter import DESCRIPTION, read_info
    from medept.analysis import analyse as look_into
    from medept.analysis import summary
    from medept.data.sources import open_dataset

    *given, source = models
    if not given:
        raise InputError(f"{source}: give one model at least, and the data after it")
    adapters = [read_info(Path(name)) for name in given if (Path(name) / DESCRIPTION).exists()]
    table = open_dataset(
        source,
        image_column=image_column,
        label_column=label_column,
        group_column=group_column,
        classes=adapters[0].classes if adapters else None,
        task=adapters[0].task if adapters else None,
    )
    with progress_bars() as report:
        found = look_into(
            given,
            table,
            out,
            limit=images,
            chosen=of_class,
            embedding=embedding,
            joint=not separate,
            seed=seed,
            progress=report,
        )
    if as_json:
        print_json({"out": str(out), "models": json.loads(found.to_json(orient="records"))})
        return
    means = summary(found)
    shown = Table("", *means.columns, title=f"{found.n[0]} images; mean ± deviation over episodes")
    for name, values in means.iterrows():
        shown.add_row(str(name).replace("_", " "), *values)
    results.print(shown)
    notes.print(f"Written to {out}: distribution.csv, figure2.png and, for prompts, gates.png")


@app.command()
def datasets(as_json: Json = False) -> None:
    """List the data sets that are known by name: NAME:FOLDER stands wherever data is read."""
    from medept.data.sources import SOURCES

    if as_json:
        print_json({name: source.summary for name, source in SOURCES.items()})
        return
    for name, source in SOURCES.items():
        results.print(f"{name:24} {source.summary}", markup=False)


@app.command()
def episodes(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="What `fit` takes.")],
    out: Annotated[Path, typer.Option(help="Folder to write the lists to; must not exist.")],
    shots: Annotated[
        list[str] | None, typer.Option(help="Shots per class; several times for several.")
    ] = None,
    count: Annotated[int, typer.Option("--episodes", min=1, help="Support sets of each.")] = 5,
    label_column: LabelColumn = None,
    group_column: GroupColumn = None,
    image_column: ImageColumn = None,
    as_json: Json = False,
) -> None:
    """Draw support sets and write them as lists that others can use: fit --episode LIST."""
    from medept import jobs
    from medept.data.episodes import read_shots
    from medept.data.sources import open_dataset

    table = open_dataset(
        data, image_column=image_column, label_column=label_column, group_column=group_column
    )
    asked = {text: read_shots(text) for text in shots or ["1", "5", "10"]}
    written = jobs.write_episodes(table, out, asked, count)
    if as_json:
        print_json({"out": str(out), "lists": written})
        return
    for name, (support, test) in written.items():
        results.print(f"{name}: {support} images to learn from, {test} to test on", markup=False)


# --- helpers ---------------------------------------------------------------------------------


def _load(folder: Path, weights: Path | None, device: str, precision: str, report: Report) -> Any:
    from medept.classifier import FewShotClassifier

    return FewShotClassifier.load(
        folder, encoder_weights=weights, device=device, precision=precision, progress=report
    )


def _pairs(option: str, pairs: list[str]) -> dict[str, str]:
    for pair in pairs:
        if "=" not in pair:
            raise InputError(f"{option} {pair}: write NAME=VALUE")
    return {name: value for name, _, value in (pair.partition("=") for pair in pairs)}


def _settings(pairs: list[str]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for name, value in _pairs("--set", pairs).items():
        try:
            settings[name] = json.loads(value)
        except json.JSONDecodeError:
            settings[name] = value
    return settings


def _place(name: str, source: str) -> str:
    """What is read, with an absolute path, so that workers elsewhere find it.

    A folder that is given for a data set known by name is read as that.
    """
    from medept.data.sources import SOURCES, named_source

    found = named_source(source)
    if found is None and name in SOURCES and Path(source).is_dir():
        found = SOURCES[name], Path(source)
    if found is not None:
        return f"{found[0].name}:{found[1].resolve()}"
    return str(Path(source).resolve()) if Path(source).exists() else source


def print_json(value: Any) -> None:
    """One JSON object on standard output."""
    sys.stdout.write(json.dumps(value) + "\n")


def print_metrics(evaluation: Evaluation) -> None:
    """The metrics as a table, undefined classes below it."""
    from medept.jobs import interval, number

    table = Table("metric", "value", "95 % interval", "n")
    for name, metric in evaluation.metrics.items():
        table.add_row(name, number(metric.value), interval(metric), str(metric.n))
    results.print(table)
    for name, classes in evaluation.undefined.items():
        results.print(f"{name}: undefined for, and averaged without, {', '.join(classes)}")


@contextmanager
def progress_bars() -> Iterator[Report]:
    """Progress bars with an estimate of the time left, on standard error."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=notes, transient=True) as bars:
        tasks: dict[str, Any] = {}

        def report(what: str, done: int, total: int) -> None:
            key = what.split(" (")[0]
            if key not in tasks:
                tasks[key] = bars.add_task(what, total=total)
            bars.update(tasks[key], description=what, completed=done, total=total)

        yield report


def main() -> None:
    """Run the command line; exit code 2 and one clear message for bad input."""
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    log = logging.getLogger("medept")
    log.setLevel(logging.INFO)
    log.handlers = [RichHandler(console=notes, show_time=False, show_level=False, show_path=False)]
    try:
        app()
    except InputError as error:
        notes.print(f"[bold red]error:[/] {_escaped(error)}", soft_wrap=True)
        raise SystemExit(2) from None
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        notes.print(f"[bold red]error:[/] {place}{error.strerror or error}", soft_wrap=True)
        raise SystemExit(2) from None


def _escaped(error: Exception) -> str:
    from rich.markup import escape

    return escape(str(error))
