"""Verbs that use an adapter or an unadapted encoder, and the demo."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Column, Table

from medept.cli.app import ADAPT, app
from medept.cli.console import notes, print_json, print_metrics, progress_bars, results, resumable
from medept.cli.options import (
    AdapterFolder,
    CaseColumn,
    CaseOption,
    ChannelsOption,
    Columns,
    Device,
    EncoderName,
    FitImage,
    ImageColumn,
    ImageRoot,
    ImageSize,
    Json,
    PlaneOption,
    Precision,
    Prevalence,
    ReadoutName,
    Slices,
    SubgroupColumns,
    SubmissionFormat,
    TestViews,
    Weights,
    Window,
    read_prevalence,
    read_subgroups,
    with_columns,
    with_plugins,
)
from medept.errors import SettingsError

if TYPE_CHECKING:
    from medept.progress import Progress as Report


Images = Annotated[
    list[Path],
    typer.Argument(
        metavar="IMAGES",
        help="Image files, folders of them, tables, patterns ('scans/*.png'), or - for paths on "
        "standard input.",
    ),
]
SkipUnreadable = Annotated[
    bool | None,
    typer.Option(
        "--skip-unreadable/--strict",
        help="An image that cannot be read has a row that says why, or is an error. Default: a row "
        "for images of folders, patterns and standard input; else an error.",
        show_default=False,
    ),
]


@app.command(rich_help_panel=ADAPT)
@with_plugins
def predict(
    adapter: AdapterFolder,
    images: Images,
    out: Annotated[
        Path,
        typer.Option(
            help="File to write, .csv or .parquet, with one row per image or case; or a folder (a "
            "name without a suffix) for Parquet files, written as they come."
        ),
    ],
    skip_unreadable: SkipUnreadable = None,
    form: SubmissionFormat = None,
    names: Annotated[
        str, typer.Option("--list", help="With --format: the list of images to predict.")
    ] = "test_WithoutLabel.txt",
    per_image: Annotated[
        bool,
        typer.Option(
            "--per-image",
            help="Of cases, write a second table, OUT-images, with what each image says by itself "
            "and how much it decides.",
        ),
    ] = False,
    image_column: ImageColumn = None,
    image_root: ImageRoot = None,
    case_column: CaseColumn = None,
    case: CaseOption = None,
    plane: PlaneOption = None,
    slices: Slices = None,
    window: Window = None,
    channels: ChannelsOption = None,
    prevalence: Prevalence = "",
    tta: TestViews = None,
    encoder_weights: Weights = None,
    device: Device = "auto",
    precision: Precision = "auto",
    as_json: Json = False,
) -> None:
    """Predict the probability of each class for new images, or for cases of several.

    The other columns of a table are carried through. Results are kept as they come: a run that was
    interrupted or killed goes on with the same command.
    """
    from medept.data.find_images import find_images
    from medept.data.volumes import Slicing
    from medept.workflows.predict import predict as predict_images
    from medept.workflows.submissions import predict_submission

    if form is not None and skip_unreadable:
        raise SettingsError("a submission has a row for every image: leave --skip-unreadable out")
    if form is not None and len(images) > 1:
        raise SettingsError(f"{images[1]}: a submission is of one data set, medfmc-TASK:FOLDER")
    tables: list[Any] = []
    with resumable(), progress_bars() as report:
        classifier = _load(adapter, encoder_weights, device, precision, report, tta, prevalence)
        if form is None:
            found = find_images(images, image_column, image_root, case_column, case)
            volumes = _slicing_of(classifier)
            written = predict_images(
                classifier,
                found,
                out,
                slicing=Slicing.of(plane, slices, window, channels, default=volumes),
                skip_unreadable=_skips(skip_unreadable, images),
                per_image=per_image,
                seen=tables.append if as_json else lambda table: None,
            )
            rows, unreadable = written.rows, written.unreadable
        else:
            tables = [predict_submission(classifier, str(images[0]), names, out)]
            rows, unreadable = len(tables[0]), 0
    if as_json:
        records = [row for table in tables for row in table.to_dict(orient="records")]
        print_json({"out": str(out), "predictions": [_without_nan(row) for row in records]})
        return
    what = "case" if case_column or case else "image"
    notes.print(f"{rows:,} {what}{'s' * (rows > 1)}. Written to {out}")
    _note_unreadable(unreadable, rows)


@app.command(rich_help_panel=ADAPT)
@with_plugins
@with_columns
def evaluate(
    adapter: AdapterFolder,
    data: Annotated[
        list[Path],
        typer.Argument(
            metavar="DATA", help="Labelled data, as for `fit`; with --format, submission files."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="New folder for metrics.json, predictions.csv and report.html."),
    ] = None,
    form: SubmissionFormat = None,
    *,
    columns: Columns,
    subgroups: SubgroupColumns = "",
    prevalence: Prevalence = "",
    tta: TestViews = None,
    encoder_weights: Weights = None,
    device: Device = "auto",
    precision: Precision = "auto",
    as_json: Json = False,
) -> None:
    """Evaluate an adapter on labelled images that it was not fitted to.

    Its support images are left out, and so are other images of their patients if there is a column
    of patients. If there is a split column, only its test rows are used.

    To evaluate submission files: medept evaluate medfmc-colon:FOLDER FILES... --format medfmc
    """
    from medept.data.sources import open_dataset
    from medept.workflows.evaluate import cut_subgroups, evaluate_unseen
    from medept.workflows.submissions import score_submissions

    if form is not None and out is not None:
        raise SettingsError("--out is for tables and folders: leave it out with --format")
    if form is not None:
        scores = score_submissions(str(adapter), data)
        if as_json:
            print_json({str(file): result.to_dict() for file, result in scores.items()})
        for file, result in {} if as_json else scores.items():
            results.print(f"\n{file}", soft_wrap=True)
            print_metrics(result)
        return
    edges = read_subgroups(subgroups)
    if len(data) > 1:
        raise SettingsError(f"{data[1]}: one table or folder is evaluated at a time")
    with progress_bars() as report:
        classifier = _load(adapter, encoder_weights, device, precision, report, tta, prevalence)
        usual = _slicing_of(classifier).options()
        given = {name: value for name, value in columns.items() if value is not None}
        table = open_dataset(
            data[0],
            **(usual | given),
            classes=classifier.info().classes,
            task=classifier.task_,
            subgroups=list(edges),
        )
        table = cut_subgroups(table, edges)
        result = evaluate_unseen(classifier, table, adapter, out)
    if as_json:
        print_json(result.to_dict())
        return
    print_metrics(result)
    if out is not None:
        notes.print(f"Written to {out}: open {out}/report.html to read about it.")


@app.command(rich_help_panel=ADAPT)
@with_plugins
def embed(
    images: Images,
    out: Annotated[
        Path,
        typer.Option(
            help="File to write. .csv and .parquet name the image of each row; .npy has the rows "
            "in the same order: as given, a folder's images sorted by name. Or a folder for "
            "Parquet files, as for `predict`."
        ),
    ],
    skip_unreadable: SkipUnreadable = None,
    adapter: Annotated[
        Path | None, typer.Option(help="Use the encoder as adapted by this fit.")
    ] = None,
    image_column: ImageColumn = None,
    image_root: ImageRoot = None,
    encoder: EncoderName = "embedded",
    encoder_weights: Weights = None,
    image_size: ImageSize = None,
    readout: ReadoutName = "pooled",
    fit_image: FitImage = "auto",
    device: Device = "auto",
    precision: Precision = "auto",
    as_json: Json = False,
) -> None:
    """Write the features of images, one row per image. A run that was killed goes on with the same
    command."""
    from medept.data.find_images import find_images
    from medept.training.cropped import warn_of_cropping
    from medept.training.extractor import FeatureExtractor
    from medept.workflows.embed import embed as embed_images

    if adapter and (encoder != "embedded" or image_size or fit_image != "auto"):
        raise SettingsError(
            "--adapter brings its own encoder: leave --encoder, --image-size and --fit-image out"
        )
    found = find_images(images, image_column, image_root)
    with resumable(), progress_bars() as report:
        if adapter:
            classifier = _load(adapter, encoder_weights, device, precision, report)
            identity = classifier.fingerprint()

            def adapted(items: Any, progress: Report, unreadable: Any) -> Any:
                classifier.progress = progress
                return classifier.embed(items, unreadable=unreadable)

            encode: Any = adapted
        else:
            extractor = FeatureExtractor.load(
                encoder,
                weights=encoder_weights,
                image_size=image_size,
                readout=readout,
                fit_image=fit_image,
                device=device,
                precision=precision,
            )
            warn_of_cropping(found.images, extractor.encoder)
            encode = extractor.features
            identity = repr((extractor.identity(), readout, extractor.accelerator.mixed_precision))
        written = embed_images(
            encode,
            found,
            out,
            identity=identity,
            skip_unreadable=_skips(skip_unreadable, images),
            progress=report,
        )
    if as_json:
        print_json({"out": str(out), "rows": written.rows, "unreadable": written.unreadable})
        return
    notes.print(f"{written.rows:,} images. Written to {out}")
    _note_unreadable(written.unreadable, written.rows)


def _skips(given: bool | None, images: list[Path]) -> bool:
    """Whether an image that cannot be read has a row, and is no error."""
    from medept.data.find_images import names_many

    return any(map(names_many, images)) if given is None else given


def _note_unreadable(unreadable: int, rows: int) -> None:
    if unreadable:
        notes.print(
            f"warning: {unreadable:,} of {rows:,} have images that could not be read: the column "
            "unreadable says why. --strict makes the first of them an error."
        )


def _without_nan(row: dict[str, Any]) -> dict[str, Any]:
    """The same with null for what is no number."""
    return {name: None if cell != cell else cell for name, cell in row.items()}


@app.command(rich_help_panel=ADAPT)
def info(adapter: AdapterFolder, as_json: Json = False) -> None:
    """Describe an adapter: its encoder, classes, method and settings, and how it was trained."""
    from medept.fits.adapter import read_info

    description = read_info(adapter)
    if as_json:
        print_json(description.model_dump())
        return
    table = Table("", Column(overflow="fold"), show_header=False, box=None)
    shown = description.model_dump() | {"calibration": str(description.calibration)}
    for key, value in shown.items():
        table.add_row(key.replace("_", " "), _plain(value))
    results.print(table)


@app.command(rich_help_panel=ADAPT)
def demo(
    out: Annotated[Path, typer.Option(help="New folder to write to.")] = Path("medept-demo"),
    as_json: Json = False,
) -> None:
    """Run a complete example on synthetic images: a few minutes, no network."""
    from medept.benchmark.scores import shots_heading
    from medept.workflows.demo import run_demo, summary

    notes.print(
        "Phantoms of colon tissue, 60 patients, 2 tiles each; the encoder that ships with medept."
    )
    with progress_bars() as report:
        result = run_demo(out, report)
    if as_json:
        print_json({"out": str(out), "runs": result.runs.to_dict(orient="records")})
        return
    for metric in ("balanced_accuracy", "auroc"):
        shown = summary(result.runs, metric)
        heads = (shots_heading(str(shots)) for shots in shown.columns)
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
    """Format a value of ``adapter.json`` for reading."""
    if isinstance(value, dict):
        return "\n".join(f"{key.replace('_', ' ')}: {_plain(part)}" for key, part in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "–" if value is None else str(value)


def _slicing_of(classifier: Any) -> Any:
    """How volumes are cut: as those were that it was fitted to."""
    from medept.data.volumes import Slicing

    text = classifier.info().volumes
    return Slicing.parse(text) if text else Slicing()


def _load(
    folder: Path,
    weights: Path | None,
    device: str,
    precision: str,
    report: Report,
    tta: int | None = None,
    prevalence: str = "",
) -> Any:
    from medept.classifier.classifier import FewShotClassifier

    classifier = FewShotClassifier.load(
        folder, encoder_weights=weights, tta=tta, device=device, precision=precision,
        progress=report,
    )  # fmt: skip
    if prevalence and classifier.operating_points_:
        raise SettingsError(
            f"{folder}: its threshold is one for probabilities at the prevalence of its fit; give "
            "prevalence= to the fit"
        )
    stated = read_prevalence(prevalence) if prevalence else classifier.prevalence
    return classifier.set_params(prevalence=stated)
