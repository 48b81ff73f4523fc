"""What the server counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 90)
_PICTURES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """A registry of its own, so that several servers in one process count apart."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "lav_requests", "Requests to score that were answered.", ("deployment", "code"), registry=self.registry
        )
        self.seconds = Histogram(
            "lav_request_seconds",
            "From a request's first byte to its answer.",
            ("deployment",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.images = Counter(
            "lav_images", "Pictures by what became of them.", ("deployment", "outcome"), registry=self.registry
        )
        self.batches = Histogram(
            "lav_batch_size",
            "Pictures the network saw at once.",
            ("deployment",),
            buckets=_PICTURES,
            registry=self.registry,
        )
        self.network_seconds = Histogram(
            "lav_network_seconds",
            "What a batch took, resizing and merging included.",
            ("deployment",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.waiting = Gauge(
            "lav_queue_length", "Decoded pictures that wait for the network.", ("deployment",), registry=self.registry
        )
        self.in_flight = Gauge("lav_requests_in_flight", "Requests that are not answered yet.", registry=self.registry)
        self.ready = Gauge("lav_ready", "1 while requests are answered.", registry=self.registry)
        ProcessCollector(registry=self.registry)

    def text(self) -> bytes:
        return generate_latest(self.registry)
