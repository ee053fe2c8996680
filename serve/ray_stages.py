"""One member of a cascade in each process of Ray Serve, for members that do not fit beside each other.

What decodes, batches and decides is the same engine as ever; only its members are asked over the network.
"""

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ray import exceptions
from ray.serve.exceptions import DeploymentUnavailableError, ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle

from encas.bundle import Bundle
from encas.cascade import Stage
from encas.errors import EncasError
from encas.runtime import CascadeExecutor
from encas.runtime.preprocess import Tensor
from encas.runtime.session import sleeping_threads
from encas.serve.limits import Limits
from encas.serve.server import warm_executor

# A process, or the machine it was on, has gone with the request.
LOST = (
    exceptions.RayActorError,
    exceptions.NodeDiedError,
    exceptions.WorkerCrashedError,
    ReplicaUnavailableError,
)
PAUSE_S = 0.05  # before the next one is asked
_PATIENCE_S = 60.0  # until Ray has a new process


class StageReplica:
    """One member of a bundle that is ready to run, in a process of Ray Serve."""

    def __init__(self, path: str, member: str, provider: str | None, limits: Limits, threads: int) -> None:
        """Open the member and run it once, and none of the others."""
        sleeping_threads(threads)
        bundle = Bundle.open(path)
        alone = bundle.cascade.model_copy(update={"stages": (Stage(member=member),)})
        self._executor = warm_executor(replace(bundle, cascade=alone, cheaper=()), provider, limits)

    def run(self, tensor: Tensor) -> NDArray[np.float32] | EncasError:
        """Return (n, c) probabilities of prepared samples, or why there are none."""
        try:
            return self._executor.run_stage(0, tensor)
        except EncasError as error:  # Ray would log what is raised, with a traceback
            return error

    def check_health(self) -> None:
        """Be alive."""


class StageElsewhere:
    """Stands for the session of a member: asks a replica, and another one where it is lost meanwhile."""

    def __init__(self, member: str, handle: "DeploymentHandle[Any]") -> None:
        """Know whom to ask: the deployment of a `StageReplica`."""
        self._member, self._handle = member, handle

    def run(self, tensor: Tensor) -> NDArray[np.float32]:
        """Return (n, c) probabilities of prepared samples; not in an event loop.

        Raises:
            EncasError: No replica has answered in time.
        """
        until_s = time.monotonic() + _PATIENCE_S
        while (left_s := until_s - time.monotonic()) > 0:
            try:
                found = self._handle.run.remote(tensor).result(timeout_s=left_s)
            except LOST:
                time.sleep(PAUSE_S)
                continue
            except (TimeoutError, DeploymentUnavailableError):
                break
            if isinstance(found, EncasError):
                raise found
            probs: NDArray[np.float32] = found
            return probs
        raise EncasError(f"member '{self._member}' was not answered by any of its processes")


def split_executor(
    bundle: Bundle, handles: Mapping[str, "DeploymentHandle[Any]"], limits: Limits
) -> CascadeExecutor:
    """Return an executor of a bundle whose members are asked elsewhere, each by its name."""
    return CascadeExecutor(
        bundle,
        "cpu",
        limits=limits.images,
        open_member=lambda member: StageElsewhere(member.name, handles[member.name]),
    )
