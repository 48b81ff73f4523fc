"""Epochs over images from a web server on this machine, with room on the disk for a quarter, a half and all of them.

python benchmarks/streaming.py [--images 1000] [--workers 2] [--delay 0.01]
"""

from __future__ import annotations

import argparse
import http.server
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from lightning_automl_vision.data.batching import class_targets
from lightning_automl_vision.data.module import make_loader
from lightning_automl_vision.data.resizing import CenterCrop
from lightning_automl_vision.data.stream_cache import ImageCache, ImageSource, use
from lightning_automl_vision.samples import Labels, Sample

SHARES = (0.0, 0.25, 0.5, 1.0)


def serve(folder: str, delay: float, asked: Any, port: Any) -> None:
    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=folder)

        def do_GET(self) -> None:
            with asked.get_lock():
                asked.value += 1
            time.sleep(delay)
            super().do_GET()

        def log_message(self, *arguments: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    port.value = server.server_port
    server.serve_forever()


@contextmanager
def served(folder: Path, delay: float) -> Iterator[tuple[str, Any]]:
    """The address, and a count of what was asked for."""
    context = get_context("fork")
    asked, port = context.Value("q", 0), context.Value("i", 0)
    process = context.Process(target=serve, args=(str(folder), delay, asked, port), daemon=True)
    process.start()
    while not port.value:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port.value}", asked
    finally:
        process.kill()
        process.join()


def write_pictures(folder: Path, count: int) -> int:
    """Bytes of all."""
    draw = np.random.default_rng(0)
    folder.mkdir()
    for number in range(count):
        small = draw.integers(0, 255, (24, 32, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{number}.jpg"), cv2.resize(small, (500, 375), interpolation=cv2.INTER_CUBIC))
    return sum(file.stat().st_size for file in folder.iterdir())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--delay", type=float, default=0.01, help="Seconds that the server takes over an answer.")
    asked_for = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = write_pictures(folder / "remote", asked_for.images)
        print(f"{asked_for.images} images, {size / 1e6:.1f} MB, {asked_for.workers} processes that read")
        print(f"{'room for':>8}{'epoch':>7}{'hit rate':>10}{'images/s':>10}")
        local = [Sample(image=str(file), target=Labels(labels=np.array([0]))) for file in (folder / "remote").iterdir()]
        measure("on disk", local, asked_for, None)
        with served(folder / "remote", asked_for.delay) as (address, asked):
            samples = [Sample(image=f"{address}/{Path(s.image).name}", target=s.target) for s in local]
            for share in SHARES:
                cache = ImageCache(folder=folder / f"cache_{share}", most_bytes=int(share * size) + 1).opened()
                use(ImageSource(cache))
                measure(f"{share:.2f}", samples, asked_for, asked)


def measure(title: str, samples: list[Any], asked_for: argparse.Namespace, asked: Any) -> None:
    loader = make_loader(
        samples,
        num_classes=1,
        truth=class_targets,
        transform=CenterCrop(resize=256, size=224),
        batch_size=32,
        seed=0,
        shuffle=True,
        workers=asked_for.workers,
    )
    for epoch in range(asked_for.epochs):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        before, started = asked.value if asked else len(samples), time.perf_counter()
        read = sum(len(batch) for batch in loader)
        rate = read / (time.perf_counter() - started)
        hits = 1 - (asked.value - before) / read if asked else 1.0
        print(f"{title:>8}{epoch + 1:7}{hits:10.3f}{rate:10.0f}", flush=True)


if __name__ == "__main__":
    main()
