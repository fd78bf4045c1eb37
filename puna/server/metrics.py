"""`/metrics` for Prometheus (https://prometheus.io/docs/instrumenting/exposition_formats/).

The `vllm:` names are those that gateways read to find a server with room (Gateway API inference extension, proposal 003).
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from starlette.requests import Request
from starlette.responses import Response

from puna.server.running_job import RunningJob
from puna.server.service import Endpoint, Service

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """Counts ended jobs, and reads what runs when it is asked."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._registry = CollectorRegistry()
        registry = self._registry
        self._requests = Counter("puna_requests", "Requests that ended.", ["wire", "end"], registry=registry)
        self._prompt = Counter("puna_prompt_tokens", "Tokens of prompts.", registry=registry)
        self._cached = Counter("puna_cached_tokens", "Tokens of prompts that the prefix cache had.", registry=registry)
        self._output = Counter("puna_output_tokens", "Tokens that were generated.", registry=registry)
        self._first = Histogram("puna_first_token_seconds", "Time to the first token.", buckets=SECONDS, registry=registry)
        self._registry.register(self)
        service.listeners.append(self.count)

    def count(self, run: RunningJob) -> None:
        """Count a job that has ended."""
        usage = run.usage
        self._requests.labels(run.job.wire, "error" if run.problem is not None else "done").inc()
        self._prompt.inc(usage.prompt)
        self._cached.inc(usage.cached)
        self._output.inc(usage.output)
        for sample in run.handle.samples:
            if sample.first_token_at:
                self._first.observe(sample.first_token_at - run.handle.submitted_at)

    def collect(self) -> Iterator[Metric]:
        """What runs and waits now; Prometheus' library calls this."""
        running = waiting = 0
        for run in self._service.running:
            has_begun = any(sample.first_token_at for sample in run.handle.samples)
            running, waiting = running + has_begun, waiting + (not has_begun)
        used = self._used_pages()
        for name, text, value in (
            ("num_requests_running", "Requests that generate.", running),
            ("num_requests_waiting", "Requests before their first token.", waiting),
            ("kv_cache_usage_perc", "Share of the K/V pages in use, 0 to 1.", used),
        ):
            for prefix in ("puna_", "vllm:"):
                yield GaugeMetricFamily(prefix + name, text, value)
        yield self._cache_config()

    def endpoint(self) -> Endpoint:
        async def answer(request: Request) -> Response:
            return Response(generate_latest(self._registry), media_type=CONTENT_TYPE_LATEST)

        return answer

    def _used_pages(self) -> float:
        llm = self._service.models.default.llm
        return 0.0 if llm is None else 1 - llm.engine.num_free_pages / llm.plan.num_pages

    def _cache_config(self) -> Metric:
        llm = self._service.models.default.llm
        size, count = (0, 0) if llm is None else (llm.plan.page_size, llm.plan.num_pages)
        family = GaugeMetricFamily(
            "vllm:cache_config_info", "Size and number of the pages.", labels=["block_size", "num_gpu_blocks"]
        )
        family.add_metric([str(size), str(count)], 1.0)
        return family
