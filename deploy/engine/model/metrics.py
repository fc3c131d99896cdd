"""The metric families of TensorRT-LLM: same names, labels and kinds.

MetricFamily exists only after Triton has imported the model, so nothing here uses it
at import.
"""

import triton_python_backend_utils as pb_utils

_GAUGES = (
    (
        "nv_trt_llm_request_metrics",
        "request_type",
        ("active", "max", "scheduled", "context", "waiting"),
    ),
    ("nv_trt_llm_runtime_memory_metrics", "memory_type", ("cpu", "gpu", "pinned")),
    (
        "nv_trt_llm_kv_cache_block_metrics",
        "kv_cache_block_type",
        ("max", "free", "used", "tokens_per", "reused", "fraction"),
    ),
    (
        "nv_trt_llm_inflight_batcher_metrics",
        "inflight_batcher_specific_metric",
        (
            "total_context_tokens",
            "generation_requests",
            "micro_batch_id",
            "paused_requests",
        ),
    ),
    ("nv_trt_llm_general_metrics", "general_type", ("timestamp", "iteration_counter")),
)
_HISTOGRAMS = (
    ("nv_llm_output_token_len", "total_output_tokens"),
    ("nv_llm_input_token_len", "total_input_tokens"),
)
_BUCKETS = [10.0, 50.0, 100.0, 500.0, 1000.0]


class EngineMetrics:
    """The families of one model version. Keeps them: one let go of disappears."""

    def __init__(self, version: str) -> None:
        labels = {"model": "tensorrt_llm", "version": version}
        self._families = []
        self._gauges = {}
        self._histograms = {}
        for family, label, values in _GAUGES:
            handle = self._family(family, pb_utils.MetricFamily.GAUGE)
            for value in values:
                metric = handle.Metric(labels={**labels, label: value})
                self._gauges[family, value] = metric
        for family, value in _HISTOGRAMS:
            handle = self._family(family, pb_utils.MetricFamily.HISTOGRAM)
            metric = handle.Metric(
                labels={**labels, "response_metric_type": value}, buckets=_BUCKETS
            )
            self._histograms[value] = metric

    def _family(self, name: str, kind: object) -> object:
        handle = pb_utils.MetricFamily(name=name, description=name, kind=kind)
        self._families.append(handle)
        return handle

    def set(self, family: str, **values: float) -> None:
        """Set gauges of one family."""
        for value, number in values.items():
            self._gauges[family, value].set(float(number))

    def observe(self, input_tokens: int, output_tokens: int) -> None:
        """Count a request that ended well."""
        self._histograms["total_input_tokens"].observe(float(input_tokens))
        self._histograms["total_output_tokens"].observe(float(output_tokens))
