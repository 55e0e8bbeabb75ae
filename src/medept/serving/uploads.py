"""The files of a request, read into memory and no further than is allowed."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from medept.serving.limits import Limits, RequestError

FILES, MODEL = "files", "model"

HOW = "send files as multipart/form-data: curl -F files=@image.png"


@dataclass(frozen=True)
class Upload:
    """What a request brought: files in their order, and the model it names, if any."""

    files: list[bytes]
    model: str | None


def declared_size(request: Request, limits: Limits) -> int:
    """Bytes that a body is said to have, or the most it may have.

    Raises:
        RequestError: if it is said to have more.
    """
    try:
        size = int(request.headers.get("content-length", limits.request_bytes))
    except ValueError as error:
        raise RequestError(400, "Content-Length is not a number", HOW) from error
    if size > limits.request_bytes:
        raise _too_large(limits)
    return max(0, size)


async def read_upload(request: Request, limits: Limits) -> Upload:
    """Read a body.

    Raises:
        RequestError: if it is not multipart, too large, or has no files or other fields.
    """
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise RequestError(415, "the body is not multipart/form-data", HOW)
    parser = MultiPartParser(
        request.headers, _counted(request, limits), max_files=limits.max_files, max_fields=2
    )
    parser.spool_max_size = limits.request_bytes + 1  # never on the disk
    try:
        form = await parser.parse()
    except RequestError:
        raise
    except ClientDisconnect as error:
        raise RequestError(400, "the client went away", "send it again") from error
    except MultiPartException as error:
        if "many files" in error.message:
            raise RequestError(
                413, f"more than {limits.max_files} files", "send them in several requests"
            ) from error
        raise RequestError(400, f"the body is damaged ({error.message})", HOW) from error
    except Exception as error:  # a parser may raise anything for damaged bytes
        raise RequestError(400, "the body is damaged", HOW) from error
    files: list[bytes] = []
    model = None
    for name, value in form.multi_items():
        if name == FILES and isinstance(value, UploadFile):
            files.append(await value.read())
            await value.close()
        elif name == MODEL and isinstance(value, str):
            model = value
        else:
            raise RequestError(422, f"only {FILES} (files) and {MODEL} (text) are fields", HOW)
    if not files:
        raise RequestError(422, "no files", HOW)
    return Upload(files, model)


async def _counted(request: Request, limits: Limits) -> AsyncGenerator[bytes, None]:
    """The body, as long as it is not too large."""
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limits.request_bytes:
            raise _too_large(limits)
        yield chunk


def _too_large(limits: Limits) -> RequestError:
    return RequestError(
        413,
        f"the request has more than {limits.max_megabytes:g} MB",
        "send fewer or smaller files at a time",
        headers={"Connection": "close"},
    )
