"""Loads `medept serve` with many clients, beside the bare model on the same images.

    python benchmarks/serve_load.py --clients 64 --seconds 600

Each client sends one PNG or JPEG image a request, over and over. Printed: requests a second, the
same as a ratio to `predict_proba` on decoded images, the 50th and 99th percentile of the time of a
request, answers that were no 200, and the server's memory at the start and the end. Clients and
server share the machine's cores, so the ratio is a lower bound.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import httpx
import numpy as np
import psutil
from PIL import Image

from medept import FewShotClassifier
from medept.data.images import read_image
from medept.phantoms import make_phantoms

FORMS = ("PNG", "JPEG")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--size", type=int, default=512, help="pixels a side")
    parser.add_argument("--method", default="prototype")
    parser.add_argument("--symmetry", default="none")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.clients, options.seconds, options.size = 8, 3, 128
    data = make_phantoms("colon", patients=8, images_per_patient=2, size=options.size)
    images = [read_image(image) for image in data.images]
    with tempfile.TemporaryDirectory() as folder:
        fit = Path(folder) / "fit"
        fit.mkdir()
        classifier = FewShotClassifier(
            method=options.method, symmetry=options.symmetry, device="cpu"
        )
        classifier.fit(images, data.labels).save(fit)
        bare = bare_rate(classifier, images, min(10, options.seconds))
        found = load(fit, [encoded(image, i) for i, image in enumerate(images)], options)
    found |= {"bare_images_per_second": bare, "ratio": found["images_per_second"] / bare}
    if options.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            print(name.replace("_", " "), f"{value:.4g}" if isinstance(value, float) else value)


def bare_rate(classifier: FewShotClassifier, images: list[Image.Image], seconds: float) -> float:
    """Images a second of the model alone, in batches of 32, decoded before."""
    batch = (images * 32)[:32]
    classifier.predict_proba(batch)
    began, done = time.perf_counter(), 0
    while (spent := time.perf_counter() - began) < seconds:
        classifier.predict_proba(batch)
        done += len(batch)
    return done / spent


def encoded(image: Image.Image, place: int) -> bytes:
    file = io.BytesIO()
    image.save(file, FORMS[place % len(FORMS)])
    return file.getvalue()


def load(fit: Path, contents: list[bytes], options: argparse.Namespace) -> dict[str, object]:
    """What clients see of a server, and what memory it takes."""
    command = [sys.executable, "-m", "medept", "serve", str(fit), "--port", "0", "--device", "cpu"]
    command += ["--queue", str(2 * options.clients), "--json"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, text=True, **pipes) as server:
        assert server.stdout is not None
        address = json.loads(server.stdout.readline())["address"]
        try:
            asyncio.run(ask(address, contents, options.clients, 2))  # what is set up once, is now
            memory = psutil.Process(server.pid).memory_info
            before = memory().rss
            times, statuses, seconds = asyncio.run(
                ask(address, contents, options.clients, options.seconds)
            )
            after = memory().rss
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(90)
    return {
        "images_per_second": statuses[200] / seconds,
        "p50_ms": 1000 * float(np.percentile(times, 50)),
        "p99_ms": 1000 * float(np.percentile(times, 99)),
        "answers": {str(status): count for status, count in statuses.items()},
        "rss_before_mb": before / 1e6,
        "rss_after_mb": after / 1e6,
    }


async def ask(
    address: str, contents: list[bytes], clients: int, seconds: float
) -> tuple[list[float], Counter[int], float]:
    """Times of requests, their statuses, and the seconds it took."""
    times: list[float] = []
    statuses: Counter[int] = Counter()
    began = time.perf_counter()
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)

    async def one(client: httpx.AsyncClient, number: int) -> None:
        for call in range(10**9):
            if time.perf_counter() - began > seconds:
                return
            content = contents[(number + call) % len(contents)]
            start = time.perf_counter()
            response = await client.post(
                f"{address}/v1/predict", files=[("files", ("image", content))]
            )
            times.append(time.perf_counter() - start)
            statuses[response.status_code] += 1

    async with httpx.AsyncClient(limits=limits, timeout=120, trust_env=False) as client:
        for _ in range(200):
            try:
                await client.get(f"{address}/readyz")
                break
            except httpx.ConnectError:
                await asyncio.sleep(0.05)
        await asyncio.gather(*(one(client, number) for number in range(clients)))
    return times, statuses, time.perf_counter() - began


if __name__ == "__main__":
    main()
