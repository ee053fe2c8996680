"""Options of commands that can run on several machines."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from encas.cli.numbers import BatchCommand

if TYPE_CHECKING:
    from encas.cluster import Cluster

_ADDRESS = re.compile(r"auto|ray://\S+|[\w.-]+:\d+|\[[\da-fA-F:]+\]:\d+")

Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="[ADDRESS]",
        help="Run on a Ray cluster (docs/scale.md): that at ADDRESS, as 10.0.0.1:6379, else the one that "
        "runs here, else one of this machine alone.",
    ),
]
RayCores = Annotated[
    int | None,
    typer.Option("--ray-cores", min=1, help="Cores of each job on the cluster.  [default: 4]"),
]


class RayCommand(BatchCommand):
    """A command whose option --ray may stand alone."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Give --ray an address where there is none, which is what click understands."""
        return super().parse_args(ctx, with_address(args))


def with_address(args: Sequence[str]) -> list[str]:
    """Turn `--ray --split val` into `--ray auto --split val`."""
    found: list[str] = []
    for place, arg in enumerate(args):
        found.append(arg)
        if arg == "--ray" and not any(map(_ADDRESS.fullmatch, args[place + 1 : place + 2])):
            found.append("auto")
    return found


@contextmanager
def cluster_of(ray: str | None, cores: int | None = None) -> "Iterator[Cluster | None]":
    """Connect to a cluster if one is wanted."""
    from encas.cluster import CORES, connected
    from encas.errors import InvalidInput

    if ray is None:
        if cores is not None:
            raise InvalidInput("--ray-cores belongs to --ray; leave it out, or add --ray")
        yield None
        return
    with connected(ray, CORES if cores is None else cores) as cluster:
        yield cluster
