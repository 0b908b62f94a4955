"""A run over the machines of a Ray cluster: an engine per device, results as they come.

Prompts travel to the workers in parts, results come back part by part; files stay with whoever
calls. A worker that dies is replaced and its part runs again. Ray is imported when it is asked for.
"""

from __future__ import annotations

import pickle
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from specdec.config import Config, with_value
from specdec.errors import DeviceError, UsageError
from specdec.generation import Generation
from specdec.load import load
from specdec.prompts import Prompt

_CONNECT_TIMEOUT_S = 10.0
_PROMPTS_PER_SLOT = 4  # in a part: enough that few slots are empty at its end


@dataclass(frozen=True, slots=True)
class ClusterJob:
    """What every worker does."""

    address: str  # of a cluster, or `local`: one of this machine alone
    num_workers: int  # 0: as many as the cluster has GPUs, or else machines
    config: Config
    stop_strings: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()


class ClusterWorker:
    """An engine in an actor; called with a part of the prompts, in columns."""

    def __init__(self, job: ClusterJob) -> None:
        import ray

        config, gpu_ids = job.config, ray.get_gpu_ids()
        if gpu_ids and config.target.device == "auto":  # Vulkan does not know whose GPU is whose
            config = with_value(config, "target.device", str(gpu_ids[0]))
        self._engine = load(
            config, stop_strings=job.stop_strings, stop_token_ids=job.stop_token_ids
        )

    def __call__(self, part: Mapping[str, Any]) -> dict[str, Any]:
        """Results and the lines of their prompts."""
        prompts = [pickle.loads(packed) for packed in part["prompt"]]
        lines = {prompt.id: line for prompt, line in zip(prompts, part["line"], strict=True)}
        events = self._engine.generate(prompts)
        results = [event.result for event in events if event.result]
        return {
            "line": np.array([lines[result.id] for result in results]),
            "result": np.array([pickle.dumps(result) for result in results], object),
        }


def generate_on_cluster(
    job: ClusterJob, prompts: Iterable[tuple[int, Prompt]]
) -> Iterator[tuple[int, Generation]]:
    """Results of prompts, each with its line number, in order of completion by part.

    UsageError where Ray is not installed, DeviceError where there is no such cluster.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UsageError("--ray needs Ray: pip install 'specdec[ray]'") from error
    rows = [{"line": line, "prompt": pickle.dumps(prompt)} for line, prompt in prompts]
    if not rows:
        return
    _connect(ray, job.address)
    try:
        num_gpus = int(ray.cluster_resources().get("GPU", 0))
        num_workers = job.num_workers or num_gpus or len(ray.nodes())
        size = _PROMPTS_PER_SLOT * job.config.run.batch_size
        size = max(1, min(size, -(-len(rows) // num_workers)))
        ray.data.DataContext.get_current().enable_progress_bars = False
        parts = ray.data.from_items(rows, override_num_blocks=-(-len(rows) // size))
        results = parts.map_batches(
            ClusterWorker,
            fn_constructor_args=(job,),
            batch_size=size,
            batch_format="numpy",
            compute=ray.data.ActorPoolStrategy(size=num_workers),
            num_gpus=1 if num_gpus else None,
        )
        for row in results.iter_rows():
            yield int(row["line"]), pickle.loads(row["result"])
    finally:
        ray.shutdown()


def _connect(ray: Any, address: str) -> None:
    """Join the cluster, quietly; DeviceError where it is not there."""
    try:
        host, _, port = address.rpartition("://")[2].rpartition(":")
        if host:  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), _CONNECT_TIMEOUT_S).close()
        ray.init(address=address, log_to_driver=False, logging_level="warning")
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise DeviceError(
            f"no Ray cluster at {address!r}: {reason}; start one with `ray start`, or give "
            "--ray local"
        ) from error
