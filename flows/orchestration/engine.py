"""The engines that run batches of draws: processes of this machine, or a Ray cluster. Both make the same votes."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from typing import Any, get_args

import torch
from prefect.client.orchestration import get_client
from prefect.concurrency.sync import concurrency
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner

from cleanlabel.flows.environment import Engine
from cleanlabel.flows.orchestration.machine import gpus, workers
from cleanlabel.flows.orchestration.server import end_with
from cleanlabel.sanitize.device import is_accelerator
from cleanlabel.sanitize.errors import InputError

GPU_LIMIT = "cleanlabel-gpu"
"""Prefect's concurrency limits, each of one slot, are named after it and a GPU's number. Any flow that trains on a GPU
holds that GPU's slot."""
GPU_LEASE_SECONDS = 60
"""How long a killed worker keeps its slot; a live worker renews it. This is Prefect's minimum."""
CARRIED = (
    "MLFLOW_TRACKING_URI",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "PREFECT_API_URL",
    "PREFECT_API_AUTH_STRING",
    "CLEANLABEL_HOME",
    "CLEANLABEL_LOG",
    "CLEANLABEL_SCRATCH",
    "CLEANLABEL_THREADS",
)
"""Settings that workers on other machines also need."""


def engine_asked(name: str | None) -> Engine:
    """The engine by its name, or by CLEANLABEL_ENGINE. InputError if the name is unknown or it is not installed."""
    asked = name or os.environ.get("CLEANLABEL_ENGINE") or "processes"
    if asked not in get_args(Engine):
        raise InputError(f"engine {asked!r} is unknown; choose one of {', '.join(get_args(Engine))}")
    if asked == "ray" and not find_spec("prefect_ray"):
        raise InputError(
            "engine 'ray' is not installed; install the extra `ray` (uv pip install --editable '.[ray]'), "
            "or use the engine 'processes'"
        )
    return "ray" if asked == "ray" else "processes"


def task_runner(engine: Engine) -> TaskRunner[Any]:
    """Prefect's runner: a process pool that ends with this process, or Ray.

    Ray: the cluster at CLEANLABEL_RAY_ADDRESS, or one on this machine for the duration of the flow. A cluster needs the
    same project directory on every machine, and an MLflow store and a Prefect API that run as servers.
    """
    if engine == "processes":
        return ProcessPoolTaskRunner(workers(), initializer=begin_worker, initargs=(os.getpid(),))
    from prefect_ray import RayTaskRunner

    carried = {"env_vars": {name: os.environ[name] for name in CARRIED if name in os.environ}}
    address = os.environ.get("CLEANLABEL_RAY_ADDRESS")
    if address:
        return RayTaskRunner(address=address, init_kwargs={"runtime_env": carried})
    here: dict[str, Any] = {"num_cpus": workers(), "include_dashboard": False, "log_to_driver": False}
    return RayTaskRunner(init_kwargs=here | {"runtime_env": carried, "logging_level": "error"})


def begin_worker(parent: int) -> None:
    """Make this process a worker. It ends when `parent` is gone, and on SIGTERM, but then not in the middle of a batch.

    A process pool that loses one worker terminates the others, and their unfinished batches would be lost.
    """
    end_with(parent)
    signal.signal(signal.SIGTERM, _end)


def _end(*_: object) -> None:
    os._exit(1)


@contextmanager
def defer_sigterm() -> Iterator[None]:
    """Delay SIGTERM until the block ends, in a process that `begin_worker` has made a worker."""
    if signal.getsignal(signal.SIGTERM) is not _end:
        yield
        return
    told = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: told.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, _end)
        if told.is_set():
            _end()


@contextmanager
def resources(engine: Engine) -> Iterator[None]:
    """The engine's resources for tasks submitted in the block: on Ray a GPU if the cluster has any, no retries by Ray.

    The flow submits a lost batch again after it has checked which of its draws are recorded.
    """
    if engine == "processes":
        with get_client(sync_client=True) as client:
            for number in range(max(1, gpus())):
                client.upsert_global_concurrency_limit_by_name(gpu_limit(number), 1)
        yield
        return
    from prefect_ray.context import remote_options

    needs = {"num_gpus": 1} if cluster_gpus() else {}
    with remote_options(max_retries=0, **needs):
        yield


def gpu_limit(number: int) -> str:
    """The name of the concurrency limit of this GPU."""
    return f"{GPU_LIMIT}-{number}"


def own_gpu() -> int:
    """The number of this process's GPU: the workers of a pool take turns, any other process has the first."""
    place = multiprocessing.current_process().name.rpartition("-")[2]  # SpawnProcess-1, SpawnProcess-2, ..
    return (int(place) - 1) % max(1, gpus()) if place.isdecimal() else 0


def cluster_gpus() -> float:
    """The GPUs of the Ray cluster in use, whatever this machine has; without a cluster those of the machine."""
    import ray

    return float(ray.cluster_resources().get("GPU", 0)) if ray.is_initialized() else float(gpus())


def at_once(engine: Engine) -> int:
    """How many tasks the engine runs at once. On Ray, ask while its cluster is in use."""
    if engine == "processes":
        return min(workers(), gpus() or workers())
    import ray

    return max(1, int(cluster_gpus() or ray.cluster_resources().get("CPU", 1)))


def gpu_slot(engine: Engine, device: torch.device) -> Any:
    """Hold a device while a batch is made. It is strict: nothing is trained unless Prefect has the GPU's limit.

    If the server is away when the lease must be renewed, the batch continues.
    """
    if not is_accelerator(device) or engine == "ray":  # Ray counts GPUs itself
        return nullcontext()
    return concurrency(
        gpu_limit(device.index or 0),
        occupy=1,
        lease_duration=GPU_LEASE_SECONDS,
        strict=True,
        raise_on_lease_renewal_failure=False,
    )
