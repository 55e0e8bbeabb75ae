"""The service: images in, probabilities out. Nothing of an image is kept, and only its hash logged.

A request goes through :class:`~medept.serving.access.Gate` (who asks), the door (is there room),
:func:`~medept.serving.uploads.read_upload` (its files, in memory), the readers (threads that
decode) and the models' one thread, which takes images of all requests in batches.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import logging
import time
import warnings
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from PIL import Image
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from medept import __version__
from medept.data.images import read_opened
from medept.data.threads import available_threads
from medept.errors import InputError
from medept.serving.access import Gate
from medept.serving.batching import ModelThread
from medept.serving.limits import Budget, Door, Limits, RequestError
from medept.serving.metrics import Metrics
from medept.serving.served import ModelDescription, ModelIdentity, ServedModel
from medept.serving.uploads import FILES, MODEL, declared_size, read_upload

logger = logging.getLogger(__name__)

BODIES = 8
"""How many bodies of the largest size may be in memory."""

IMAGES = 4
"""How many decoded images of the largest size may be in memory, besides one for each reader."""


class Prediction(BaseModel):
    """What is predicted for one file.

    Attributes:
        file: its position in the request, counted from 1.
        sha256: of its bytes.
        probabilities: of each class.
        labels: the most probable class; for multi-label data, all above one half.
        decision: what the fit's operating points decide, as ``medept predict`` writes it; None if
            it has none.
    """

    file: int
    sha256: str
    probabilities: dict[str, float]
    labels: list[str]
    decision: str | None = None


class Answer(BaseModel):
    """What is predicted, and by which model."""

    model: ModelIdentity
    calibration: str
    predictions: list[Prediction]


class Problem(BaseModel):
    """Why a request is not served, and what to do; ``file`` is the position of the one at fault."""

    error: str
    file: int | None
    remedy: str


@dataclass
class _Running:
    """What lives from the start of a service to its end."""

    readers: ThreadPoolExecutor
    thread: ModelThread[Image.Image]
    pixels: Budget


class Service:
    """Serves predictions of models within limits.

    Args:
        models: by name.
        limits: of requests.
    """

    def __init__(self, models: dict[str, ServedModel], limits: Limits) -> None:
        self.models, self.limits = models, limits
        self.door = Door(limits.queue, BODIES * limits.request_bytes)
        self.metrics = Metrics(lambda: self.door.requests)
        self._running: _Running | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Within it, requests are served; at its end, what is in flight is finished."""
        threads = available_threads()
        most = (threads + IMAGES) * self.limits.image_pixels
        readers = ThreadPoolExecutor(threads, thread_name_prefix="reader")
        thread: ModelThread[Image.Image] = ModelThread(seen=self.metrics.batch_size.observe)
        self._running = _Running(readers, thread, Budget(most))
        try:
            with _quiet_readers(self.limits.image_pixels):
                yield
        finally:
            readers.shutdown()
            thread.close()
            self._running = None

    @property
    def is_ready(self) -> bool:
        """Whether it can serve."""
        return self._running is not None and self._running.thread.is_running

    async def predict(self, request: Request, name: str | None) -> Answer:
        """Answer one request.

        Raises:
            RequestError: if it cannot be served.
        """
        began = time.perf_counter()
        with self.door.enter(declared_size(request, self.limits)):
            try:
                upload = await asyncio.wait_for(
                    read_upload(request, self.limits), self.limits.timeout
                )
            except asyncio.TimeoutError as error:
                raise RequestError(
                    408,
                    f"the request took more than {self.limits.timeout:g} s to arrive",
                    "send fewer or smaller files at a time",
                ) from error
            model = self._model(upload.model if name is None else name)
            try:
                predictions = await asyncio.wait_for(
                    self._predict_all(model, upload.files), self.limits.timeout
                )
            except asyncio.TimeoutError as error:
                raise RequestError(
                    504, f"no answer within {self.limits.timeout:g} s", "send fewer files at a time"
                ) from error
        described = model.description
        self.metrics.images.labels(described.identity.name).inc(len(predictions))
        logger.info(
            "%s, %.0f ms: %s",
            described.identity.name,
            1000 * (time.perf_counter() - began),
            " ".join(one.sha256 for one in predictions),
        )
        return Answer(
            model=described.identity, calibration=described.calibration, predictions=predictions
        )

    def _model(self, name: str | None) -> ServedModel:
        names = f"give {MODEL}, one of {', '.join(self.models)}"
        if name is None:
            if len(self.models) > 1:
                raise RequestError(422, "several models are served", names)
            return next(iter(self.models.values()))
        if name not in self.models:
            raise RequestError(404, "no such model", names)
        return self.models[name]

    async def _predict_all(self, model: ServedModel, files: list[bytes]) -> list[Prediction]:
        tasks = [
            asyncio.create_task(self._predict(model, place, content))
            for place, content in enumerate(files, start=1)
        ]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def _predict(self, model: ServedModel, place: int, content: bytes) -> Prediction:
        running = self._running
        assert running is not None
        loop, held = asyncio.get_running_loop(), self.limits.image_pixels
        await running.pixels.take(held)
        try:
            image, sha256 = await loop.run_in_executor(running.readers, _read, place, content)
            spare, held = held - image.width * image.height, image.width * image.height
            await running.pixels.give(spare)
            row = await asyncio.wrap_future(running.thread.submit(model.predict, image))
        finally:
            await running.pixels.give(held)
        return Prediction(
            file=place,
            sha256=sha256,
            probabilities=dict(zip(model.description.classes, row.tolist(), strict=True)),
            labels=model.labels(row),
            decision=model.decision(row),
        )


def _read(place: int, content: bytes) -> tuple[Image.Image, str]:
    """The decoded image and the SHA-256 of its file.

    Raises:
        RequestError: if it cannot be read.
    """
    try:
        return read_opened(io.BytesIO(content), ""), hashlib.sha256(content).hexdigest()
    except InputError as error:
        what, _, remedy = str(error).removeprefix(": ").rpartition("; ")
        raise RequestError(422, what or remedy, remedy, file=place) from error


@contextmanager
def _quiet_readers(pixels: int) -> Iterator[None]:
    """Within it, readers refuse images of more pixels, and print nothing of what they read."""
    before = Image.MAX_IMAGE_PIXELS
    loggers = [logging.getLogger(name) for name in ("PIL", "pydicom", "tifffile")]
    levels = [each.level for each in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        Image.MAX_IMAGE_PIXELS = pixels
        for each in loggers:
            each.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before
            for each, level in zip(loggers, levels, strict=True):
                each.setLevel(level)


_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": [FILES],
                "properties": {
                    FILES: {
                        "type": "array",
                        "minItems": 1,
                        "items": {"type": "string", "format": "binary"},
                    },
                    MODEL: {"type": "string"},
                },
            }
        }
    },
}

_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem} for status in (400, 401, 404, 408, 413, 415, 421, 422, 500, 503, 504)
}


def make_app(
    models: dict[str, ServedModel], limits: Limits | None = None, token: bytes | None = None
) -> FastAPI:
    """The ASGI application.

    Args:
        models: by name, as :func:`~medept.serving.served.load_models` gives them.
        limits: of requests; None for the default ones.
        token: that requests have to bring as ``Authorization: Bearer TOKEN``; None for none.
    """
    service = Service(models, limits or Limits())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with service.running():
            yield

    app = FastAPI(
        title="medept",
        version=__version__,
        description="Probabilities for medical images. For research: not a medical device.",
        docs_url=None,  # the pages that come with FastAPI load from the internet
        redoc_url=None,
        lifespan=lifespan,
        responses=_PROBLEMS,
    )
    app.add_middleware(Gate, token=token)
    _add_routes(app, service)
    _answer_problems(app)
    return app


def _add_routes(app: FastAPI, service: Service) -> None:
    @app.post("/v1/predict", openapi_extra={"requestBody": _BODY})
    async def predict(request: Request, model: str | None = None) -> Answer:
        """Probabilities of each class for each file."""
        with service.metrics.measured():
            try:
                return await service.predict(request, model)
            except (RequestError, asyncio.CancelledError):
                raise
            except Exception as error:
                logger.error("a request failed: %s", _where(error))
                raise RequestError(
                    500, "the service failed", "tell who runs it; its log says where"
                ) from error

    @app.get("/v1/models")
    async def models() -> list[ModelDescription]:
        """The models that are served."""
        return [model.description for model in service.models.values()]

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Whether the process answers."""
        return {"status": "ok"}

    @app.get("/readyz")
    async def readyz(response: Response) -> dict[str, str]:
        """Whether predictions can be asked for."""
        response.status_code = 200 if service.is_ready else 503
        return {"status": "ready" if service.is_ready else "not ready"}

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Counts and times for Prometheus."""
        content, kind = service.metrics.text()
        return Response(content, media_type=kind)


def _where(error: BaseException) -> str:
    """The type of an error and where it was raised: its message may tell about an image."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    at = "" if place is None else f" at {place.tb_frame.f_code.co_filename}:{place.tb_lineno}"
    return f"{type(error).__name__}{at}"


def _answer_problems(app: FastAPI) -> None:
    """Every problem has the same form."""

    @app.exception_handler(RequestError)
    async def refuse(request: Request, problem: RequestError) -> JSONResponse:
        return JSONResponse(problem.content, problem.status, problem.headers)

    @app.exception_handler(HTTPException)
    async def explain(request: Request, error: HTTPException) -> JSONResponse:
        content = {"error": str(error.detail), "file": None, "remedy": "see /openapi.json"}
        return JSONResponse(content, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        content = {"error": "a parameter is invalid", "file": None, "remedy": "see /openapi.json"}
        return JSONResponse(content, 422)
