"""Counts of a server for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120)


class Metrics:
    """What is counted; one set per server."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "voxclone_requests", "Requests answered, by path and status.", ["path", "status"], registry=registry
        )
        self.spoken = Counter("voxclone_spoken", "Texts spoken to their end.", registry=registry)
        self.failed = Counter("voxclone_failed", "Texts that failed while they were spoken.", registry=registry)
        self.refused = Counter("voxclone_refused", "Texts refused because too many were waiting.", registry=registry)
        self.gone = Counter("voxclone_gone", "Clients that left before their speech was complete.", registry=registry)
        self.frames = Counter("voxclone_frames", "Frames spoken (80 ms each).", registry=registry)
        self.rows = Gauge("voxclone_speaking", "Utterances in the batch.", registry=registry)
        self.waiting = Gauge("voxclone_waiting", "Texts that wait for a place in the batch.", registry=registry)
        self.first_sound = Histogram(
            "voxclone_first_sound_seconds", "From the request to its first audio.", registry=registry, buckets=_SECONDS
        )

    def page(self) -> tuple[bytes, str]:
        """The counts in Prometheus's text format, and its media type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST
