"""`tiny-chat`: a simulated in-flight-batching engine behind TensorRT-LLM's contract.

Real: the tokenizer, streaming, queueing for slots and KV blocks, cancellation, the
metric families. Not real: the language model (a random walk over a small corpus) and
every duration, which are parameters of config.pbtxt and say nothing about a GPU.

Triton loads this file with the Python backend; the modules beside it are its own.
"""

import json
import os
import signal
import threading
import time

import triton_python_backend_utils as pb_utils
from batcher import Batcher, Load, Pace
from contract import CONTRACTS
from metrics import EngineMetrics
from request import Engine, Generation, Rejected

_FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


_CHECK_SECONDS = 0.5
_LATEST_CHECK_SECONDS = 30.0  # longer than a machine or a container stands still


def _leave_with(server: int) -> None:
    """End this process when the server is gone.

    A stub that was busy when its server got killed waits for its answer for ever
    (measured with 2.51, every time), often without letting any Python run: then the
    alarm that nobody puts off ends it. The kernel's own way, PR_SET_PDEATHSIG, goes
    by the thread that forked the stub, and Triton's is gone after loading.
    """
    while os.getppid() == server:
        signal.setitimer(signal.ITIMER_REAL, _LATEST_CHECK_SECONDS)
        time.sleep(_CHECK_SECONDS)
    os._exit(1)


class TritonPythonModel:
    """The class Triton looks for."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the parameters and start the engine's thread."""
        config = json.loads(args["model_config"])
        parameters = {
            key: value["string_value"] for key, value in config["parameters"].items()
        }
        self._pace = Pace(
            ttft=float(parameters["ttft_ms"]) / 1e3,
            prefill_per_token=float(parameters["prefill_ms_per_token"]) / 1e3,
            itl=float(parameters["itl_ms"]) / 1e3,
            max_num_seqs=int(parameters["max_num_seqs"]),
            kv_blocks=int(parameters["kv_blocks"]),
        )
        self._tokens_per_block = int(parameters["tokens_per_block"])
        if self._pace.kv_blocks * self._tokens_per_block < int(
            parameters["max_seq_len"]
        ):
            raise ValueError("kv_blocks must hold one sequence of max_seq_len")
        self._metrics = EngineMetrics(args["model_version"])
        self._engine = Engine(
            parameters, CONTRACTS[parameters["contract"]], self._metrics.observe
        )
        self._batcher = Batcher(self._pace, self._publish)
        self._batcher.start()
        threading.Thread(target=_leave_with, args=(os.getppid(),), daemon=True).start()

    def finalize(self) -> None:
        """End the engine's thread; Triton calls this when no request is left."""
        self._batcher.stop()

    def execute(self, requests: list[object]) -> None:
        """Hand over at once: the core's own queue stays empty, as with the real one."""
        for request in requests:
            sender = request.get_response_sender()
            try:
                generation = Generation(self._engine, request, sender)
            except Exception as error:  # noqa: BLE001 - the server must get an answer
                self._reject(request, sender, error)
            else:
                self._batcher.submit(generation)

    def _reject(self, request: object, sender: object, error: Exception) -> None:
        self._engine.truth.write(request.request_id(), 0, 0, "failed")
        code = getattr(pb_utils.TritonError, getattr(error, "code", "INTERNAL"))
        if not isinstance(error, Rejected):
            pb_utils.Logger.log_error(f"request could not be read: {error!r}")
        failure = pb_utils.TritonError(str(error), code)
        sender.send(pb_utils.InferenceResponse(error=failure), flags=_FINAL)

    def _publish(self, load: Load) -> None:
        """Set the gauges, on the engine's thread."""
        metrics, pace = self._metrics, self._pace
        metrics.set(
            "nv_trt_llm_request_metrics",
            active=load.running + load.waiting,
            max=pace.max_num_seqs,
            scheduled=load.running,
            context=load.prefilling,
            waiting=load.waiting,
        )
        metrics.set(
            "nv_trt_llm_kv_cache_block_metrics",
            max=pace.kv_blocks,
            free=pace.kv_blocks - load.used_blocks,
            used=load.used_blocks,
            tokens_per=self._tokens_per_block,
            reused=0,
            fraction=load.used_blocks / pace.kv_blocks,
        )
        metrics.set(
            "nv_trt_llm_inflight_batcher_metrics",
            total_context_tokens=0,
            generation_requests=load.running - load.prefilling,
            micro_batch_id=0,
            paused_requests=0,
        )
        metrics.set(
            "nv_trt_llm_general_metrics",
            timestamp=time.time_ns() // 1000,
            iteration_counter=load.iteration,
        )
