"""`encas demo`: the whole path on data that ships with scikit-learn."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from encas.demo import Outcome, Row


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("demo")(demo)


def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything that is made.")] = Path("encas-demo"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
) -> None:
    """Walk the whole path on handwritten digits, in about two minutes.

    Trains ten small networks, records them into a pool, searches a front, picks a cascade, exports, runs,
    measures and serves it, and compares it with the best single network.

    Example: `encas demo --out encas-demo`
    """
    import time
    from dataclasses import asdict

    from encas.cli.output import print_json, print_note
    from encas.errors import require

    for package, extra in (
        ("sklearn", "demo"),
        ("torch", "export"),
        ("onnxruntime", "cpu"),
        ("numba", "search"),
    ):
        require(package, extra)
    from encas.demo import run

    start_s = time.monotonic()
    outcome = run(out, lambda step: print_note(f"[{time.monotonic() - start_s:3.0f} s] {step}"))
    if as_json:
        rows = (outcome.answer, outcome.best_single, outcome.equal_single)
        print_json(
            {"cascade": str(outcome.cascade), "test": [asdict(row) for row in rows if row is not None]}
        )
        return
    _print(outcome)


def _print(outcome: "Outcome") -> None:
    from encas.cli.output import print_line, print_table

    rows = [("best network", outcome.best_single), ("the cascade", outcome.answer)]
    if outcome.equal_single not in (None, outcome.best_single):
        rows.insert(1, ("cheapest as accurate", outcome.equal_single))
    print_line("")
    print_table(
        ("on the test digits", "network", "kMACs", "accuracy", "us/image"),
        [(title, *_cells(row, title)) for title, row in rows],
    )
    print_line(f"\nThe cascade: {outcome.cascade}")
    print_line(_verdict(outcome))
    stage = outcome.reply["exit_stage"][0]
    label, confidence = outcome.reply["label"][0], outcome.reply["confidence"][0]
    print_line(f"The server said of one image: {label}, confidence {confidence:.2f}, after stage {stage}.")
    folder = outcome.folder
    print_line(f"The front: {folder / 'front' / 'front.png'}, {folder / 'front' / 'front.html'}")
    print_line("\nNext, with your own networks and images (a folder with one folder per class):")
    print_line("  encas pool record pool --member onnx:your.onnx --preprocess your.yml --data images/")
    print_line("with a --member for each network (timm:, torchvision:, torch: or onnx:), then")
    print_line("  encas search --pool pool")


def _cells(row: "Row", title: str) -> tuple[str, ...]:
    name = "" if title == "the cascade" else row.name
    return (name, f"{row.macs / 1e3:.1f}", f"{100 * row.accuracy:.1f} %", f"{1e6 * row.latency_s:.1f}")


def _verdict(outcome: "Outcome") -> str:
    best, answer = outcome.best_single, outcome.answer
    gain = round(100 * (answer.accuracy - best.accuracy), 1)
    if outcome.is_better:
        at = f"{gain} points more accuracy" if gain > 0 else "equal accuracy"
        return (
            f"It costs {best.macs / answer.macs:.1f} times fewer MACs than the best single network, "
            f"at {at} on test."
        )
    if answer.macs >= best.macs:
        return "It does NOT cost fewer MACs than the best single network: no cascade found on val does."
    fewer = round(outcome.n * (best.accuracy - answer.accuracy))
    return (
        f"It costs {best.macs / answer.macs:.1f} times fewer MACs than the best single network, but does NOT "
        f"keep its accuracy on test:\n{fewer} of {outcome.n} answers fewer are right. On val, where it was "
        "searched and picked, it was as accurate; with so\nfew digits chance moves both by some answers."
    )
