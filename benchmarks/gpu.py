"""Everything that only a GPU shows, in one command and under eight minutes: checks, then times.

    python benchmarks/gpu.py --out gpu-results
    python benchmarks/gpu.py --provider cpu --quick --out rehearsal         on a machine without a GPU

Writes gpu.json and gpu.md, and goes on when a part fails: what it failed on is in both. Needs the extras gpu,
export, search and nat, and pytest. Parts:

  tests      `pytest -m gpu`: the executor's tests on CUDA
  executor   a bundle of three networks: whole calls, the time inside the networks, and the bare `run` calls
             of plain sessions on the same rows
  buckets    each network at each size: `run` of a plain session, of padded batches, of rows gathered on the
             device; the first call of a size after the warm-up
  copies     what torch's profiler sees cross between host and device in one call
  evaluator  how many cascades a search evaluates in a second; that is compiled for processors and has no
             version for GPUs
  nat        a step of training of a supernetwork: sandwich rule, 4 networks
"""

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
Row = Mapping[str, str | int | float | None]
_PACKAGES = ("encas", "numpy", "torch", "onnxruntime-gpu", "onnxruntime", "onnx", "numba")


@dataclass(frozen=True)
class Setting:
    """Where and how thoroughly."""

    provider: str
    quick: bool
    folder: Path  # for files that are thrown away

    @property
    def device(self) -> str:
        """As torch calls it."""
        return "cpu" if self.provider == "cpu" else "cuda"

    @property
    def batches(self) -> tuple[int, ...]:
        """Sizes of whole calls."""
        return (1, 8) if self.quick else (1, 8, 32, 128)

    def median_ms(self, call: Callable[[], Any], budget_s: float = 1.0) -> float:
        """Median time of a call that is repeated for some time, after one that does not count."""
        call()
        times: list[float] = []
        end_s = time.perf_counter() + (budget_s / 10 if self.quick else budget_s)
        while len(times) < 5 or (time.perf_counter() < end_s and len(times) < 2000):
            start_s = time.perf_counter()
            call()
            times.append(time.perf_counter() - start_s)
        return 1e3 * float(np.median(times))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--provider", choices=["cuda", "tensorrt", "cpu"], default="cuda")
    parser.add_argument("--quick", action="store_true", help="small images, few repeats: a rehearsal")
    parser.add_argument("--out", type=Path, default=Path("gpu-results"))
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    options = parser.parse_args()
    if options.quick:
        os.environ["ENCAS_GPU_SIDE"] = "64"
    sys.path[:0] = [str(HERE), str(HERE / "search")]
    options.out.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {"machine": machine(), "provider": options.provider, "quick": options.quick}
    with tempfile.TemporaryDirectory() as folder:
        setting = Setting(options.provider, options.quick, Path(folder))
        for name in options.only:
            report[name] = tried(PARTS[name], setting)
            print(f"{name}: {report[name]['seconds']:.1f} s {report[name].get('failed', '')}", flush=True)
            (options.out / "gpu.json").write_text(json.dumps(report, indent=1) + "\n")
            (options.out / "gpu.md").write_text(as_markdown(report))
    print((options.out / "gpu.md").read_text())
    if any("failed" in report[name] for name in options.only):
        sys.exit(1)


def machine() -> dict[str, str | int]:
    """Where this runs, and with what."""
    from encas.runtime.machine import cpu_name, cuda_devices, usable_cores

    found: dict[str, str | int] = {
        "cpu": cpu_name(),
        "cores": usable_cores(),
        "python": platform.python_version(),
    }
    found["gpu"] = ", ".join(cuda_devices()) or "none"
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def tried(part: Callable[[Setting], Sequence[Row]], setting: Setting) -> dict[str, Any]:
    """Run a part; a failure is a result too."""
    start_s = time.perf_counter()
    try:
        found: dict[str, Any] = {"rows": [dict(row) for row in part(setting)]}
    except Exception as error:
        found = {"rows": [], "failed": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
    return {**found, "seconds": time.perf_counter() - start_s}


def as_markdown(report: Mapping[str, Any]) -> str:
    """One table for each part."""
    lines = [", ".join(f"{key} {value}" for key, value in report["machine"].items()), ""]
    for name in PARTS:
        if name not in report:
            continue
        part = report[name]
        lines += [f"## {name} ({part['seconds']:.0f} s)", ""]
        if "failed" in part:
            lines += [f"failed: {part['failed']}", ""]
        if part["rows"]:
            keys = list(dict.fromkeys(key for row in part["rows"] for key in row))
            lines += [f"| {' | '.join(keys)} |", "|" + "---|" * len(keys)]
            lines += [f"| {' | '.join(shown(row.get(key)) for key in keys)} |" for row in part["rows"]] + [""]
    return "\n".join(lines)


def shown(value: str | float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def run_tests(setting: Setting) -> list[Row]:
    words = ["-m", "gpu"] if setting.provider != "cpu" else ["-m", "not gpu and not slow and not real"]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-rs",
            *words,
            "tests/runtime/test_executor.py",
            "tests/runtime/test_buckets.py",
            "tests/runtime/test_session.py",
        ],
        cwd=HERE.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=150,
    )
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0:
        raise RuntimeError("\n".join(lines[-30:]))
    return [{"pytest": " ".join(words), "says": lines[-1]}]


def make_bundle(setting: Setting) -> Path:
    """Record three networks, and export a cascade that half of the images leave at each stage."""
    path = setting.folder / "bundle"
    if path.exists():
        return path
    from gpu_networks import N_CLASSES, NAMES, coarse_images

    from encas.cascade import Cascade, Stage
    from encas.export import export, record

    n = 64 if setting.quick else 256
    np.savez(
        setting.folder / "coarse.npz",
        images=coarse_images(n),
        labels=np.arange(n),
        classes=[str(label) for label in range(N_CLASSES)],
    )
    sources = [f"torch:gpu_networks:{name}" for name in NAMES]
    pool = record(
        setting.folder / "pool", sources, setting.folder / "coarse.npz", batch=32, device=setting.device
    )
    thresholds = [float(np.median(pool.probs(name, "val").max(axis=1))) for name in NAMES[:-1]]
    stages = [
        Stage(member=name, threshold=threshold)
        for name, threshold in zip(NAMES, [*thresholds, None], strict=True)
    ]
    export(Cascade(stages=tuple(stages)), pool, path, samples=32, allow_code=True)
    return path


def coarse_pixels(setting: Setting, n: int) -> Any:
    images = np.load(setting.folder / "coarse.npz")["images"]
    return images[np.arange(n) % len(images)]


def time_executor(setting: Setting) -> list[Row]:
    from encas.runtime import CascadeExecutor
    from encas.runtime.preprocess import normalise
    from encas.runtime.session import open_session

    rows: list[Row] = []
    with CascadeExecutor(make_bundle(setting), setting.provider) as executor:
        executor.warm_up(max(setting.batches))
        members = executor.bundle.stage_members
        plain = [open_session(executor.bundle.path / m.file, setting.provider, m.output) for m in members]
        for batch in setting.batches:
            pixels = coarse_pixels(setting, batch)
            tensor = normalise(pixels, members[0].preprocess)
            answers, trace = executor.run_traced(tensor)
            parts = [tensor[answers.exit_stage >= stage] for stage in range(len(members))]

            def bare(parts: Sequence[Any] = parts) -> None:
                for session, part in zip(plain, parts, strict=True):
                    if len(part):
                        session.run(part)

            inside: list[float] = []

            def whole(tensor: Any = tensor, inside: list[float] = inside) -> None:
                inside.append(1e3 * sum(executor.run_traced(tensor)[1].run_s))

            whole_ms = setting.median_ms(whole)
            bare_ms = setting.median_ms(bare)
            rows.append(
                {
                    "batch": batch,
                    "rows run": " ".join(map(str, trace.rows)),
                    "executor ms": whole_ms,
                    "inside networks ms": float(np.median(inside)),
                    "bare run calls ms": bare_ms,
                    "executor / bare": whole_ms / bare_ms,
                    "images/s": 1e3 * batch / whole_ms,
                }
            )
    return rows


def time_buckets(setting: Setting) -> list[Row]:
    from encas.bundle import Bundle
    from encas.runtime.buckets import open_buckets
    from encas.runtime.session import open_session

    bundle, rows = Bundle.open(make_bundle(setting)), []
    for member in bundle.stage_members:
        path, shape = bundle.path / member.file, member.preprocess.shape
        session = open_session(path, setting.provider, member.output)
        buckets = open_buckets(session, path, shape, len(bundle.labels), max(setting.batches))
        buckets.warm_up()
        tensor = np.random.default_rng(0).standard_normal((max(setting.batches), *shape), np.float32)
        source = buckets.upload(tensor)
        for size in buckets.sizes:
            part, some = tensor[:size], np.arange(size)[::-1].copy()
            start_s = time.perf_counter()
            buckets.run(part)
            first_ms = 1e3 * (time.perf_counter() - start_s)
            plain_ms = setting.median_ms(partial(session.run, part), 0.3)
            padded_ms = setting.median_ms(partial(buckets.run, part), 0.3)
            gathered_ms = setting.median_ms(partial(buckets.run_rows, source, some), 0.3)
            differs = float(np.abs(buckets.run(part) - session.run(part)).max())
            rows.append(
                {
                    "network": member.name,
                    "size": size,
                    "plain run ms": plain_ms,
                    "padded ms": padded_ms,
                    "gathered ms": gathered_ms,
                    "plain / padded": plain_ms / padded_ms,
                    "first / padded": first_ms / padded_ms,
                    "most difference": differs,
                    "nodes": str(buckets.session.assigned),
                    "graph": str(buckets.session is not session),
                }
            )
    return rows


def count_copies(setting: Setting) -> list[Row]:
    import torch
    from torch.profiler import ProfilerActivity, profile

    from encas.runtime import CascadeExecutor

    if setting.device == "cpu":
        return [{"note": "nothing is copied on a CPU"}]
    rows: list[Row] = []
    with CascadeExecutor(make_bundle(setting), setting.provider) as executor:
        executor.warm_up(max(setting.batches))
        torch.zeros(1, device="cuda")  # the profiler starts with torch's own context
        for batch in setting.batches:
            pixels = coarse_pixels(setting, batch)
            executor.run(pixels)
            trace_file = setting.folder / "trace.json"
            with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
                executor.run(pixels)
            profiler.export_chrome_trace(str(trace_file))
            events = json.loads(trace_file.read_text())["traceEvents"]
            for kind in ("HtoD", "DtoH", "DtoD"):
                copies = [e for e in events if e.get("cat") == "gpu_memcpy" and kind in e["name"]]
                rows.append(
                    {
                        "batch": batch,
                        "copies": kind,
                        "number": len(copies),
                        "bytes": sum(int(e["args"].get("bytes", 0)) for e in copies),
                        "images as float32, bytes": 4 * pixels.size,
                    }
                )
    return rows


def time_evaluator(setting: Setting) -> list[Row]:
    from evaluator import searched
    from synthetic import invented_table, make_pool

    from encas.runtime.machine import usable_cores
    from encas.search.evaluate import Evaluator

    m, n, classes, evaluations = (20, 2000, 20, 2000) if setting.quick else (100, 10_000, 100, 60_000)
    pool = make_pool(setting.folder / "synthetic", invented_table(m, 0.5, 0.8), n, classes)
    members = pool.members_with("val")
    costs = np.array([member.macs for member in members], np.float64)
    workers = usable_cores()
    evaluator = Evaluator.open(pool, "val", members, costs, max_stages=5, workers=workers)
    searched(evaluator, 1000, 0)  # compiles
    timed, search_s, _ = searched(evaluator, evaluations, 1)
    return [
        {
            "members": m,
            "samples": n,
            "classes": classes,
            "workers": workers,
            "evaluations": evaluations,
            "search s": search_s,
            "evaluations/s in the evaluator": evaluations / timed.seconds,
        }
    ]


def time_nat(setting: Setting) -> list[Row]:
    import torch

    from encas.search.nat import SPACES, Supernet
    from encas.search.nat.images import CroppedAndFlipped, Pixels, Scale
    from encas.search.nat.recipes import Sandwich
    from encas.search.nat.trainer import Schedule, Settings, Trainer

    name, side, batch, n_steps = ("tiny-alphanet", 32, 8, 4) if setting.quick else ("alphanet", 224, 64, 30)
    space, rng = SPACES[name], np.random.default_rng(0)
    pixels = Pixels(
        rng.integers(0, 256, (4 * batch, side, side, 3), np.uint8), rng.integers(1000, size=4 * batch)
    )
    batches = CroppedAndFlipped(pixels, Scale((0.5,) * 3, (0.3,) * 3), batch, seed=1, padding=4)
    supernet = Supernet(space, 1000, torch.Generator().manual_seed(0))
    settings = Settings(Schedule(0.01, n_steps), seed=1)
    trainer = Trainer(supernet, Sandwich(space, 1000, "alpha"), batches, settings, setting.device)
    ends: list[float] = []

    def tell(_progress: Any) -> None:
        ends.append(time.perf_counter())  # the loss has been read, so the step is done

    trainer.run(tell=tell)
    step_s = float(np.median(np.diff(ends)))
    peak = torch.cuda.max_memory_allocated() / 2**30 if setting.device == "cuda" else None
    return [
        {
            "space": name,
            "pixels": side,
            "batch": batch,
            "step ms": 1e3 * step_s,
            "images/s, each through 4 networks": batch / step_s,
            "peak GiB": peak,
        }
    ]


PARTS: dict[str, Callable[[Setting], Sequence[Row]]] = {
    "tests": run_tests,
    "executor": time_executor,
    "buckets": time_buckets,
    "copies": count_copies,
    "evaluator": time_evaluator,
    "nat": time_nat,
}

if __name__ == "__main__":
    main()
