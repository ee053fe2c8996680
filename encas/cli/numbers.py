"""Numbers on the command line: options that take several, as `--batch 1 8 32`, and how MACs are shown."""

from collections.abc import Sequence
from typing import Any

from typer.core import TyperCommand


class BatchCommand(TyperCommand):
    """A command whose option --batch takes one number or several."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Give every number its own --batch, which is what click understands."""
        return list(super().parse_args(ctx, spread(args, "--batch")))


def spread(args: Sequence[str], option: str) -> list[str]:
    """Turn `--batch 1 8` into `--batch 1 --batch 8`."""
    spread_args: list[str] = []
    inside = False
    for arg in args:
        if inside and arg.isdigit() and spread_args[-1] != option:
            spread_args.append(option)
        inside = arg == option or (inside and arg.isdigit())
        spread_args.append(arg)
    return spread_args


def mmacs(macs: float) -> str:
    """Four digits without an exponent."""
    return f"{macs / 1e6:,.0f}" if macs >= 1e9 else f"{macs / 1e6:.4g}"
