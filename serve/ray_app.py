"""Replicas of whole cascades on Ray Serve, behind the usual server or behind Ray's own.

A replica holds a bundle and the engine that runs it; its members too, or those are asked by it
(`encas.serve.ray_stages`). In front of the replicas stands the usual application, which asks them instead of
an engine of its own, and asks another one where a replica is lost: what a client sees is the same. `encas
serve --ray` runs that application here; `serve deploy` runs `app` in Ray Serve.
"""

import asyncio
import logging
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from encas.bundle import Bundle
from encas.cluster import Cluster, Need
from encas.errors import EncasError, InvalidInput
from encas.runtime import CascadeExecutor
from encas.runtime.session import sleeping_threads
from encas.serve.app import create_app
from encas.serve.engine import Outcome
from encas.serve.limits import Limits
from encas.serve.model import Images
from encas.serve.ray_stages import LOST, PAUSE_S, StageReplica, split_executor
from encas.serve.refusals import DeadlinePassed, Overloaded, ShuttingDown
from encas.serve.server import warm_executor
from encas.serve.service import Service

_TELL_EVERY_S = 1.0
_ONGOING = 64  # requests that a replica has at once: enough for its batches, while others may be free


class Replicas(BaseModel):
    """How many there are of a bundle, and what each has."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    least: int = Field(default=1, ge=1)
    most: int = Field(default=1, ge=1)
    ongoing: float = Field(default=16, gt=0)  # requests for each, by which Ray Serve makes more or fewer
    cores: int = Field(default=1, ge=1)
    gpus: float = Field(default=0, ge=0)
    split: bool = False  # each member has processes of its own, with the cores and GPUs

    @property
    def options(self) -> dict[str, Any]:
        """Return the options of a deployment that runs networks."""
        return self._options({"num_cpus": self.cores, "num_gpus": self.gpus})

    @property
    def options_without_networks(self) -> dict[str, Any]:
        """Return the options of a deployment that prepares images and asks others."""
        return self._options({"num_cpus": 1})

    def need(self, n_members: int) -> tuple[int, int]:
        """Count the processes that run networks of a bundle, and the cores of all together."""
        if not self.split:
            return self.least, self.least * self.cores
        return self.least * n_members, self.least * (1 + n_members * self.cores)

    def _options(self, own: dict[str, Any]) -> dict[str, Any]:
        options: dict[str, Any] = {"ray_actor_options": own, "max_ongoing_requests": _ONGOING}
        if self.most <= self.least:
            return {**options, "num_replicas": self.least}
        scaling = {
            "min_replicas": self.least,
            "initial_replicas": self.least,
            "max_replicas": self.most,
            "target_ongoing_requests": self.ongoing,
        }
        return {**options, "autoscaling_config": scaling}


class Replica:
    """One bundle that is ready to run, in a process of Ray Serve."""

    def __init__(
        self,
        path: str,
        provider: str | None,
        limits: Limits,
        threads: int,
        members: Sequence[str] = (),
        *handles: "DeploymentHandle[Any]",
    ) -> None:
        """Open the bundle, and run it once; members that are named are asked by their handles."""
        sleeping_threads(threads)
        elsewhere = dict(zip(members, handles, strict=True))

        def load(bundle: Bundle) -> CascadeExecutor:
            if elsewhere:
                return split_executor(bundle, elsewhere, limits)
            return warm_executor(bundle, provider, limits)

        self._service = Service([Bundle.open(path)], load, limits=limits)
        self._service.models.load_all()
        (self._name,) = self._service.models.names

    async def infer(self, images: Images, timeout_s: float) -> Outcome | EncasError:
        """Answer a request, or say why not."""
        try:
            return await self._service.models.engine(self._name).infer(images, timeout_s)
        except EncasError as error:  # Ray would log what is raised, with a traceback
            return error

    def check_health(self) -> None:
        """Be alive."""


class Elsewhere:
    """Stands for an engine: asks replicas, and another one where a replica is lost with a request."""

    def __init__(self, bundle: Bundle, handle: "DeploymentHandle[Any]", most: int) -> None:
        """Know whom to ask.

        Args:
            bundle: What they answer for.
            handle: Of the deployment of a `Replica`.
            most: Requests that may be under way.
        """
        self.bundle = bundle
        self.n_pending = self.gear = self.n_shifts = 0
        self.delay_s = 0.0  # the replicas know
        self._handle, self._most, self._closing = handle, most, False
        self._told_s = -_TELL_EVERY_S

    @property
    def n_waiting(self) -> tuple[int, ...]:
        """Requests that are under way, for want of the samples in each queue of each replica."""
        return (self.n_pending,)

    def check_room(self, timeout_s: float) -> None:  # noqa: ARG002  # the replicas refuse by time
        """Refuse early.

        Raises:
            Overloaded: Too many are under way.
        """
        if self.n_pending >= self._most:
            raise Overloaded(f"model '{self.bundle.name}'")

    async def infer(self, images: Images, timeout_s: float) -> Outcome:
        """Answer the images of one request.

        Raises:
            As `Engine.infer`.
        """
        if self._closing:
            raise ShuttingDown(f"model '{self.bundle.name}'")
        until_s = time.monotonic() + timeout_s
        self.n_pending += 1
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    found = await self._ask(images, until_s - time.monotonic())
                    if found is not None:
                        break
                    await asyncio.sleep(PAUSE_S)
        except TimeoutError:
            raise DeadlinePassed(self.bundle.name, timeout_s) from None
        finally:
            self.n_pending -= 1
        if isinstance(found, EncasError):
            raise found
        self.n_shifts += found.gear != self.gear
        self.gear = found.gear
        return found

    async def _ask(self, images: Images, timeout_s: float) -> Outcome | EncasError | None:
        """Ask a replica; None if it was lost."""
        try:
            found: Outcome | EncasError = await self._handle.infer.remote(images, timeout_s)
        except BackPressureError:
            return Overloaded(f"model '{self.bundle.name}'")
        except DeploymentUnavailableError as error:
            return EncasError(f"model '{self.bundle.name}' cannot be run: {error}")
        except LOST:
            self._tell_of_loss()
            return None
        return None if isinstance(found, ShuttingDown) else found  # a replica that is taken away

    def _tell_of_loss(self) -> None:
        """Say so on stderr, once for all requests that were lost together."""
        now_s = time.monotonic()
        if now_s > self._told_s + _TELL_EVERY_S:
            self._told_s = now_s
            sys.stderr.write(
                f"encas: a replica of '{self.bundle.name}' was lost; its requests go to another one\n"
            )
            sys.stderr.flush()

    def close(self) -> None:
        """Take no more requests; those that are under way go on."""
        self._closing = True


@dataclass(frozen=True)
class Deployed:
    """Bundles that have replicas."""

    handles: Mapping[Path, "DeploymentHandle[Any]"] = field(default_factory=dict)
    most: int = 1000

    def start(self, bundle: Bundle) -> Elsewhere:
        """Return who answers for a bundle.

        Raises:
            InvalidInput: It is none of those that were deployed.
        """
        handle = self.handles.get(bundle.path.resolve())
        if handle is None:
            raise InvalidInput(f"{bundle.path}: has no replicas; start the server again to serve it on Ray")
        return Elsewhere(bundle, handle, self.most)


@contextmanager
def deployed(
    cluster: Cluster, paths: Sequence[Path], replicas: Replicas, provider: str | None, limits: Limits
) -> Iterator[Deployed]:
    """Run replicas of bundles on a cluster, as long as the block lasts.

    Args:
        cluster: Whose machines have room for the least number of replicas.
        paths: Of bundles, found by all machines.
        replicas: Of each.
        provider: Where the networks run.
        limits: Of each replica.

    Raises:
        InvalidInput: A bundle is not whole, its replicas cannot start, or there is no room for them.
    """
    _check_room(cluster, paths, replicas)
    names = {path.resolve(): f"encas-{Bundle.open(path).name}-{place}" for place, path in enumerate(paths)}
    quiet = {"log_level": "ERROR"}
    logging.getLogger("ray.serve").setLevel(logging.ERROR)  # of this process
    serve.start(proxy_location="Disabled", logging_config=quiet)  # the usual server listens
    handles: dict[Path, Any] = {}
    try:
        for path, name in names.items():
            target = _replicas(path, replicas, provider, limits)
            try:
                handles[path] = serve.run(target, name=name, route_prefix=None, logging_config=quiet)
            except RuntimeError as error:
                raise InvalidInput(
                    f"{path}: its replicas cannot start: {' '.join(str(error).split())[:300]}"
                ) from None
        yield Deployed(handles, _most(replicas, limits))
    finally:
        for name in names.values():
            with suppress(Exception):  # the cluster may be gone
                serve.delete(name)


def _check_room(cluster: Cluster, paths: Sequence[Path], replicas: Replicas) -> None:
    needs = [replicas.need(len(Bundle.open(path).gear_members)) for path in paths]
    n_processes, n_cores = (sum(column) for column in zip(*needs, strict=True))
    room, cores = cluster.n_slots(Need(replicas.cores, math.ceil(replicas.gpus))), cluster.n_slots(Need(1))
    if room < n_processes or cores < n_cores:
        raise InvalidInput(
            f"--ray: the cluster has {cores} cores, and room for {room} replicas of {replicas.cores} cores"
            f"{' and a GPU' if replicas.gpus else ''}; {n_processes} are wanted"
            f"{f', and {n_cores} cores with those in front of them' if replicas.split else ''}; add "
            "machines, or lower --replicas or --replica-cores"
        )


class Told(BaseModel):
    """What `app` is told in the file that `serve deploy` reads, under `args`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bundles: tuple[Path, ...] = Field(min_length=1)  # found by all machines
    replicas: Replicas = Replicas()  # of each bundle
    doors: int = Field(default=1, ge=1)  # replicas of the application in front of them
    provider: str | None = None
    request_timeout_s: float = Field(default=30.0, gt=0)


@serve.ingress()
class Door:
    """The usual application, in a process of Ray Serve."""

    def __init__(self, told: Told, *handles: "DeploymentHandle[Any]") -> None:
        """Know the replicas of each bundle."""
        self._told, self._handles = told, handles

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Make the application; Ray Serve asks for it."""
        told, limits = self._told, _limits(self._told)
        handles = dict(zip([path.resolve() for path in told.bundles], self._handles, strict=True))
        there = Deployed(handles, _most(told.replicas, limits))
        return create_app([Bundle.open(path) for path in told.bundles], limits=limits, start=there.start)


def app(told: Told) -> serve.Application:
    """Build the application for `serve deploy`, whose file names `encas.serve.ray_app:app`."""
    replicas = [_replicas(path, told.replicas, told.provider, _limits(told)) for path in told.bundles]
    door: Any = serve.deployment(
        Door,
        name="door",
        num_replicas=told.doors,
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=1000,
    )
    bound: serve.Application = door.bind(told, *replicas)
    return bound


def _limits(told: Told) -> Limits:
    return Limits(request_timeout_s=told.request_timeout_s)


def _replicas(path: Path, replicas: Replicas, provider: str | None, limits: Limits) -> serve.Application:
    bundle = Bundle.open(path)
    name = f"cascade-{bundle.name}-{bundle.file.version}"
    place = str(path.resolve())
    members = [member.name for member in bundle.gear_members] if replicas.split else []
    options = replicas.options_without_networks if replicas.split else replicas.options
    deployment: Any = serve.deployment(Replica, name=name, **options)
    stages = []
    for member in members:
        stage: Any = serve.deployment(StageReplica, name=f"{name}-{member}", **replicas.options)
        stages.append(stage.bind(place, member, provider, limits, replicas.cores))
    threads = 1 if replicas.split else replicas.cores
    bound: serve.Application = deployment.bind(place, provider, limits, threads, members, *stages)
    return bound


def _most(replicas: Replicas, limits: Limits) -> int:
    return max(replicas.least, replicas.most) * limits.max_requests
