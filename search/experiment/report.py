"""What an experiment comes to: hypervolumes, claims, and figures, as JSON, a page and pictures."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from encas.files import FileModel, read_model, write_bytes, write_model
from encas.search.experiment.config import BEST, Experiment
from encas.search.experiment.figures import as_html, draw_png, figure_of
from encas.search.experiment.published import LEBOVITZ
from encas.search.experiment.results import Reference, Result
from encas.search.experiment.run import Runner, own_reference
from encas.search.experiment.statistics import Paired, Tested, holm
from encas.search.joint.loop import JointReport

LEVEL = 0.05


class Row(FileModel):
    """One part over all its runs: medians, and in brackets the least and the largest."""

    part: str
    runs: int
    val_own: tuple[float, float, float]  # hypervolume against the experiment's own reference
    test_own: tuple[float, float, float]
    test_paper: tuple[float, float, float]
    most_accurate: tuple[float, float, float]  # on test, of what is the most accurate on val
    seconds: float  # median


class Taus(FileModel):
    """How well ENCAS-joint guessed: Kendall's tau by iteration, the median of all runs."""

    part: str
    error: tuple[float | None, ...]
    macs: tuple[float | None, ...]


class Report(FileModel):
    """`report.json`."""

    format: str = "encas-experiment/1"
    title: str
    best: str | None  # of the transfers
    references: tuple[str, ...]
    rows: tuple[Row, ...]
    taus: tuple[Taus, ...]
    tests: tuple[Tested, ...]
    figures: tuple[str, ...]


def report(runner: Runner) -> Report:
    """Compare what was found, write `report.json`, `report.html` and `figures/`."""
    experiment, results = runner.experiment, runner.results()
    best = runner.best if experiment.nat else None
    named = [one.model_copy(update={"part": BEST}) for one in results if one.part == best]
    own = own_reference(results, experiment)
    paper = Reference("paper", *experiment.reference)
    everything = [*results, *named]
    found = Report(
        title=experiment.title,
        best=best,
        references=(str(own), str(paper)),
        rows=tuple(_row(part, results, own, paper) for part in dict.fromkeys(one.part for one in results)),
        taus=tuple(_taus(runner, name) for name in experiment.joint),
        tests=tuple(_tests(experiment, everything, own, paper)),
        figures=tuple(figure.name for figure in experiment.figures),
    )
    labels = {BEST: f"networks of {best}"}
    labels |= {name: f"networks of {name}" for name in (*experiment.nat, *experiment.pools)}
    figures = [figure_of(figure, everything, own, labels) for figure in experiment.figures]
    for figure in figures:
        draw_png(figure, runner.out / "figures" / f"{figure.name}.png")
    write_model(runner.out / "report.json", found)
    parts = [as_html(figure, with_code=index == 0) for index, figure in enumerate(figures)]
    write_bytes(runner.out / "report.html", _page(found, parts).encode())
    return found


def _row(part: str, results: Sequence[Result], own: Reference, paper: Reference) -> Row:
    mine = [one for one in results if one.part == part]
    return Row(
        part=part,
        runs=len(mine),
        val_own=_spread([own.volume(one.array("val")) for one in mine]),
        test_own=_spread([own.volume(one.array("test")) for one in mine]),
        test_paper=_spread([paper.volume(one.array("test")) for one in mine]),
        most_accurate=_spread([one.most_accurate("test") for one in mine]),
        seconds=float(np.median([one.seconds for one in mine])),
    )


def _spread(values: Sequence[float]) -> tuple[float, float, float]:
    return float(np.median(values)), min(values), max(values)


def _tests(
    experiment: Experiment, results: Sequence[Result], own: Reference, paper: Reference
) -> list[Tested]:
    tests = []
    for claim in experiment.claims:
        one, other = (
            {result.run: result for result in results if result.part == name}
            for name in (claim.better, claim.than)
        )
        runs = sorted(one.keys() & other.keys())
        for split in claim.splits:
            for by in ("hypervolume (own)", "hypervolume (paper)", "most accurate"):
                values = []
                for found in (one, other):
                    if by == "most accurate":
                        values.append(np.array([found[run].most_accurate(split) for run in runs]))
                        continue
                    reference = own if "own" in by else paper
                    values.append(np.array([reference.volume(found[run].array(split)) for run in runs]))
                paired = Paired(*values)
                tests.append(
                    Tested(
                        better=claim.better,
                        than=claim.than,
                        split=split,
                        by=by,
                        n=len(runs),
                        median_better=float(np.median(paired.better)),
                        median_than=float(np.median(paired.than)),
                        wins=int((paired.better > paired.than).sum()),
                        effect=paired.effect(),
                        p=paired.p(),
                    )
                )
    corrected = holm([test.p for test in tests])
    return [test.model_copy(update={"p_holm": p}) for test, p in zip(tests, corrected, strict=True)]


def _taus(runner: Runner, name: str) -> Taus:
    """Read the reports of a joint run's iterations."""
    runs: list[list[JointReport]] = []
    for run in range(runner.experiment.runs):
        file = runner.out / "joint" / f"{name}-{run}" / "report.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        runs.append([JointReport.model_validate_json(line) for line in lines])
    n = min((len(one) for one in runs if one), default=0)

    def median(which: str, iteration: int) -> float | None:
        values = [getattr(one[iteration], which) for one in runs if one]
        known = [value for value in values if value is not None]
        return float(np.median(known)) if known else None

    return Taus(
        part=name,
        error=tuple(median("tau_error", i) for i in range(n)),
        macs=tuple(median("tau_macs", i) for i in range(n)),
    )


# --- tables ---

Table = tuple[tuple[str, ...], list[tuple[str, ...]]]


def tables(found: Report) -> Mapping[str, Table]:
    """What is printed and shown, as text."""
    shown: dict[str, Table] = {}
    shown["What was found"] = (
        ("part", "runs", "hypervolume val", "test", "test (paper)", "most accurate, %", "s"),
        [
            (
                row.part,
                str(row.runs),
                _three(row.val_own),
                _three(row.test_own),
                _three(row.test_paper),
                _three(row.most_accurate, 100, 2),
                f"{row.seconds:.0f}",
            )
            for row in found.rows
        ],
    )
    if found.tests:
        shown["Claims"] = (
            ("claim", "split", "by", "wins", "medians", "effect", "p", "p (Holm)"),
            [
                (
                    f"{test.better} > {test.than}",
                    test.split,
                    test.by,
                    f"{test.wins}/{test.n}",
                    f"{test.median_better:.4f} {test.median_than:.4f}",
                    f"{test.effect:+.2f}",
                    f"{test.p:.4f}",
                    f"{test.p_holm:.4f}",
                )
                for test in found.tests
            ],
        )
    if found.taus:
        shown["Kendall's tau of guessed and true objectives, by iteration"] = (
            ("part", "objective", "tau"),
            [
                (one.part, name, " ".join("-" if tau is None else f"{tau:.2f}" for tau in taus))
                for one in found.taus
                for name, taus in (("error", one.error), ("MACs", one.macs))
            ],
        )
    return shown


def _three(values: tuple[float, float, float], scale: float = 1, digits: int = 4) -> str:
    median, least, most = (f"{scale * value:.{digits}f}" for value in values)
    return median if least == most else f"{median} ({least}-{most})"


def _page(found: Report, figures: Sequence[str]) -> str:
    """One page that needs nothing else."""
    parts = [f"<h1>{html.escape(found.title)}</h1>"]
    parts += [f"<p>Reference points of hypervolumes: {html.escape('; '.join(found.references))}.</p>"]
    if found.best is not None:
        parts.append(f"<p>Best by the hypervolume of its networks on val: {html.escape(found.best)}.</p>")
    for title, (header, rows) in tables(found).items():
        cells = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
        )
        parts.append(f"<h2>{html.escape(title)}</h2><table><tr>{cells}</tr>{body}</table>")
    parts.append(
        "<p>One-sided Wilcoxon signed-rank tests on runs of the same seed; effect: matched-pairs "
        f"rank-biserial correlation; corrected by Holm for all {len(found.tests)} tests. "
        "The least p of n pairs is 1 / 2^n.</p>"
    )
    said = ", ".join(f"{times:g} times ({where})" for where, times in LEBOVITZ)
    parts.append(
        "<p>Lebovitz et al., TMLR 2023, on ImageNet: cascades take less compute at equal accuracy, "
        f"by {said}.</p>"
    )
    style = (
        "body{font:15px/1.4 sans-serif;margin:24px}table{border-collapse:collapse}"
        "td,th{border:1px solid #ccc;padding:3px 8px;text-align:left}"
    )
    head = (
        f'<head><meta charset="utf-8"><title>{html.escape(found.title)}</title><style>{style}</style></head>'
    )
    return f'<!doctype html><html lang="en">{head}<body>{"".join([*parts, *figures])}</body></html>'


def stored(out: Path) -> Report:
    """Read a report again."""
    return read_model(out / "report.json", Report)
