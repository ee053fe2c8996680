"""Commands about the installation: doctor."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from encas.runtime.doctor import Report


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("doctor")(doctor)


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False) -> None:
    """Show what is installed, which providers really work here, and what clashes.

    Exit code 1 if something clashes; what is merely not installed is no fault.

    Example: `encas doctor`
    """
    from encas.cli.output import print_json
    from encas.errors import EncasError
    from encas.runtime.doctor import examine

    report = examine(Path.cwd())
    if as_json:
        print_json(report)
    else:
        _print_report(report)
    if report.clashes:
        more = f" (and {len(report.clashes) - 1} more above)" if len(report.clashes) > 1 else ""
        raise EncasError(f"{report.clashes[0]}{more}")


def _print_report(report: "Report") -> None:
    from encas.cli.output import print_line, print_table

    print_line(f"encas {report.encas}, Python {report.python}, {report.system}")
    print_line(f"{report.cpu}, {report.cores} cores, {report.disk_free_bytes / 2**30:.1f} GiB free here")
    print_line(f"CUDA devices: {', '.join(report.cuda_devices) or 'none'}\n")
    print_table(
        ("package", "for", "needed", "installed"),
        [
            (package.name, extra.name, f">={package.minimum or '0'}", package.version or "absent")
            for extra in report.extras
            for package in extra.packages
        ],
    )
    print_line("")
    for provider in report.providers:
        print_line(f"provider {provider.name}: {'works' if provider.works else provider.why}")
    for extra in report.to_install():
        print_line(f"for {extra.name}: {extra.install} (brings {', '.join(extra.missing)})")
    for line in report.clashes:
        print_line(f"clash: {line}")
    if not report.clashes:
        demo = next((extra for extra in report.to_install() if extra.name == "demo"), None)
        print_line(f"nothing clashes; next: {f'{demo.install}, then ' if demo else ''}encas demo")
