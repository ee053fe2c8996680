"""More than one machine: jobs are functions of their inputs, and Ray runs each where there is room.

Where a machine is lost a job runs again: what it returns counts, and it must do nothing else that a second
time would spoil.
"""

import os
import pickle
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import metadata
from types import ModuleType
from typing import Any, TypeVar

from encas import __version__
from encas.errors import EncasError, InvalidInput, require
from encas.memory import keep_freed_memory

Common = TypeVar("Common")
Job = TypeVar("Job")
Result = TypeVar("Result")

ANY = "auto"  # the cluster that is found here, else one that is started for the time of a command
CORES = 4  # of a job, if any machine has as many
_ATTEMPTS = 5  # of a job whose worker or machine is lost again and again
_CONNECT_S = 3.0
_SHARE = 0.25  # of Ray's memory: what all jobs need, a job's results, and those of the one before
_LONGEST = 300  # of what is said of Ray's errors, which can be pages
# What the bytes of results depend on.
_PACKAGES = ("ray", "numpy", "torch", "torchvision", "timm", "onnx", "onnxruntime", "pillow", "simplejpeg")


def installed() -> dict[str, str]:
    """Versions of Python, encas and the packages that results depend on; those that are installed."""
    found = {"python": platform.python_version(), "encas": __version__}
    for name in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


@dataclass(frozen=True)
class Need:
    """What a job has for itself while it runs."""

    cores: int
    gpus: int = 0
    node: str | None = None  # id of the one that it must run on


@dataclass(frozen=True)
class Node:
    """A machine of a cluster, as Ray counts what it has."""

    id: str
    name: str
    cores: int
    gpus: int


@dataclass(frozen=True)
class Place:
    """Room for one job on a machine."""

    node: str  # its id
    gpu: int | None = None  # which of its GPUs


@dataclass(frozen=True)
class Cluster:
    """A cluster that this process is connected to; see `connected`."""

    ray: ModuleType
    cores: int = CORES
    versions: Mapping[str, str] = field(default_factory=installed)

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Machines that are there now, by id."""
        found = [
            Node(
                one["NodeID"],
                one["NodeManagerHostname"],
                int(one["Resources"].get("CPU", 0)),
                int(one["Resources"].get("GPU", 0)),
            )
            for one in self.ray.nodes()
            if one["Alive"]
        ]
        return tuple(sorted(found, key=lambda node: node.id))

    def need(self, device: str) -> Need:
        """Return what a job on "cpu" or "cuda" should have: some cores, or a GPU and its share of them.

        Raises:
            InvalidInput: No machine of the cluster has it.
        """
        nodes = [node for node in self.nodes if node.cores and (node.gpus or device == "cpu")]
        if not nodes:
            what = "a core" if device == "cpu" else "a GPU"
            raise InvalidInput(f"--ray: no machine of the cluster has {what} for jobs; add one that has")
        gpus = int(device != "cpu")
        shares = [node.cores // node.gpus if gpus else node.cores for node in nodes]
        return Need(max(1, min(self.cores, max(shares))), gpus)

    def n_slots(self, need: Need) -> int:
        """Count the jobs that can run at the same time."""
        fits = [node.cores // need.cores for node in self.nodes]
        if need.gpus:
            fits = [min(n, node.gpus // need.gpus) for n, node in zip(fits, self.nodes, strict=True)]
        return sum(fits)

    def places(self, need: Need) -> list[Place]:
        """Name the room for jobs: for the first of each machine, then for the second, and so on."""
        found = []
        for node in self.nodes:
            n = node.cores // need.cores
            if need.gpus:
                n = min(n, node.gpus)
            found += [(k, Place(node.id, k if need.gpus else None)) for k in range(n)]
        return [place for _, place in sorted(found, key=lambda one: one[0])]

    @property
    def here(self) -> str:
        """Id of the machine that this process is on."""
        found: str = self.ray.get_runtime_context().get_node_id()
        return found

    @property
    def address(self) -> str:
        """Where other machines reach this one."""
        found: str = require("ray.util", "ray").get_node_ip_address()
        return found

    @property
    def room_bytes(self) -> int:
        """Bytes of arrays that each machine can hold for jobs."""
        rooms = [one["Resources"].get("object_store_memory", 0) for one in self.ray.nodes() if one["Alive"]]
        return int(_SHARE * min(rooms))

    def check_fits(self, n_bytes: int, what: str) -> None:
        """Refuse what Ray has no room for: it would wait for ever.

        Raises:
            InvalidInput: Says how much there is.
        """
        if n_bytes > self.room_bytes:
            mib = [round(n / 2**20) for n in (n_bytes, self.room_bytes)]
            raise InvalidInput(
                f"--ray: {what} takes {mib[0]} MiB, Ray has room for {mib[1]} on its smallest machine; start "
                "it with more --object-store-memory, or name files that all machines find"
            )

    def run(
        self,
        work: Callable[[Common, Job], Result],
        common: Common,
        jobs: Sequence[Job],
        need: Need | Sequence[Need],
    ) -> Iterator[tuple[int, Result]]:
        """Run jobs, and yield each one's place in the list with its result, as they end.

        Jobs whose worker or machine is lost run again elsewhere. Those that are still running when the
        iteration is left are stopped.

        Args:
            work: A function of an installed module; it gets `common` and a job, and runs there with as many
                threads as it has cores, as far as `OMP_NUM_THREADS` decides it.
            common: Sent to each machine once; arrays in it are read-only and in memory once for each machine.
            jobs: What differs.
            need: Of all jobs, or of each.

        Raises:
            EncasError: What a job has raised, with the name of its machine; its machine has other packages;
                or it was lost too often.
        """
        needs = [need] * len(jobs) if isinstance(need, Need) else list(need)
        self.check_fits(_size_bytes(self.ray, common), "what all jobs need")
        shared = self.ray.put(common)
        function = self.ray.remote(_called)
        running = {
            function.options(**self._options(one)).remote(work, shared, job, dict(self.versions)): which
            for which, (job, one) in enumerate(zip(jobs, needs, strict=True))
        }
        try:
            while running:
                ready, _ = self.ray.wait(list(running), num_returns=1)
                for reference in ready:
                    yield running.pop(reference), self._result(reference)
        finally:
            for reference in running:
                with suppress(Exception):  # whatever became of it
                    self.ray.cancel(reference, force=True)

    @contextmanager
    def alongside(
        self, work: Callable[..., None], calls: Sequence[Sequence[Any]], places: Sequence[Place]
    ) -> Iterator["Alongside"]:
        """Run a function in processes of a cluster while this one goes on; they end with the block.

        Args:
            work: A function of an installed module.
            calls: The arguments of each process.
            places: Where each runs; Ray does not count what they need.
        """
        strategies = require("ray.util.scheduling_strategies", "ray")
        function = self.ray.remote(_alongside)
        running = []
        try:
            for call, place in zip(calls, places, strict=True):
                pinned = strategies.NodeAffinitySchedulingStrategy(place.node, soft=False)
                options = {"num_cpus": 0, "max_retries": 0, "scheduling_strategy": pinned}
                running.append(function.options(**options).remote(work, call, place.gpu, dict(self.versions)))
            yield Alongside(self.ray, running)
        finally:
            for reference in running:
                with suppress(Exception):  # whatever became of it
                    self.ray.cancel(reference, force=True)

    def _options(self, need: Need) -> dict[str, Any]:
        options: dict[str, Any] = {
            "num_cpus": need.cores,
            "num_gpus": need.gpus,
            "max_retries": _ATTEMPTS - 1,
        }
        if need.node is not None:
            strategies = require("ray.util.scheduling_strategies", "ray")
            options["scheduling_strategy"] = strategies.NodeAffinitySchedulingStrategy(need.node, soft=False)
        return options

    def _result(self, reference: Any) -> Any:
        errors = self.ray.exceptions
        try:
            return self.ray.get(reference)
        except errors.RayTaskError as error:
            if isinstance(error.cause, EncasError):
                raise error.cause from None
            raise
        except errors.RayError as error:
            raise EncasError(
                f"--ray: a job was lost {_ATTEMPTS} times, the last time so: {_one_line(error)}; what was "
                "finished stays, and the same command goes on"
            ) from None


@dataclass(frozen=True)
class Alongside:
    """Processes of a cluster that run beside this one."""

    ray: ModuleType
    running: Sequence[Any]

    def __len__(self) -> int:
        """Count them."""
        return len(self.running)

    def ended(self) -> tuple[int, str] | None:
        """Return one that has ended, and how; None: all are there.

        Raises:
            EncasError: What one has raised.
        """
        ready, _ = self.ray.wait(list(self.running), timeout=0)
        if not ready:
            return None
        try:
            self.ray.get(ready[0])
        except self.ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, EncasError):
                raise error.cause from None
            raise
        except self.ray.exceptions.RayError as error:
            return self.running.index(ready[0]), f"was lost ({_one_line(error)})"
        return self.running.index(ready[0]), "has ended"

    def join(self) -> None:
        """Wait until all have ended."""
        self.ray.wait(list(self.running), num_returns=len(self.running))


@contextmanager
def connected(address: str = ANY, cores: int = CORES) -> Iterator[Cluster]:
    """Connect to a Ray cluster, whose machines have the same packages installed as this one.

    Args:
        address: `host:port` of its head, or "auto": the cluster that `RAY_ADDRESS` names or that runs here,
            and where there is none, one of this machine alone that ends with the block.
        cores: Of each job that runs without a GPU.

    Raises:
        MissingPackage: Ray is not installed.
        InvalidInput: No cluster is there, or it is none that this process may join.
    """
    ray = require("ray", "ray")
    if ray.is_initialized():
        yield Cluster(ray, cores)
        return
    told = os.environ.get("RAY_ADDRESS", "") if address == ANY else address
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if told not in ("", ANY):
            _check_reachable(told)
            ray.init(address=told, **options)
        else:
            _find_or_start(ray, options)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise InvalidInput(f"--ray {told or ANY}: {_one_line(error)}") from None
    try:
        yield Cluster(ray, cores)
    finally:
        ray.shutdown()


def check_versions(wanted: Mapping[str, str], here: Mapping[str, str], place: str) -> None:
    """Check that a machine has what the one has that asks it.

    Raises:
        InvalidInput: A package is missing there, or in another version.
    """
    for name, version in wanted.items():
        if here.get(name) != version:
            found = f"has {name} {here[name]}" if name in here else f"lacks {name}"
            raise InvalidInput(
                f"{place}: {found}, the machine that asks it has {version}; install the same on all machines"
            )


def _called(work: Callable[[Any, Any], Any], common: Any, job: Any, wanted: Mapping[str, str]) -> Any:
    """Run a job in a worker."""
    place = platform.node()
    check_versions(wanted, installed(), place)
    keep_freed_memory()  # as the commands do that run the same here
    try:
        return work(common, job)
    except EncasError as error:
        raise EncasError(f"{error} (on {place})") from None
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise EncasError(f"{where}{error.strerror or error} (on {place})") from None


def _alongside(
    work: Callable[..., None], call: Sequence[Any], gpu: int | None, wanted: Mapping[str, str]
) -> None:
    """Run beside another process."""
    check_versions(wanted, installed(), platform.node())
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(gpu)  # Ray hides all of them
    keep_freed_memory()
    work(*call)


def _find_or_start(ray: ModuleType, options: Mapping[str, Any]) -> None:
    try:
        ray.init(address=ANY, **options)
    except ConnectionError:  # none runs here
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody outside
        ray.init(include_dashboard=False, **options)


def _check_reachable(address: str) -> None:
    """Look whether something answers there: Ray itself would wait for minutes.

    Raises:
        InvalidInput: No.
    """
    right = "give what 'ray start --head' has printed, as 10.0.0.1:6379"
    if address.startswith("ray://"):
        raise InvalidInput(f"--ray {address}: Ray's client protocol is not spoken here; {right}")
    grpc = require("grpc", "ray")
    with grpc.insecure_channel(address) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=_CONNECT_S)
        except grpc.FutureTimeoutError:
            raise InvalidInput(f"--ray {address}: no Ray cluster answers there; {right}") from None


def _size_bytes(ray: ModuleType, value: Any) -> int:
    """Count what a value takes when it is sent, without copying its arrays."""
    buffers: list[pickle.PickleBuffer] = []
    text = ray.cloudpickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    return len(text) + sum(buffer.raw().nbytes for buffer in buffers)


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "..."
