"""Everything that only a GPU shows, in one command and under eight minutes: checks, then times.

    python benchmarks/gpu.py --out gpu-results --pool POOL
    python benchmarks/gpu.py --provider cpu --quick --out rehearsal         on a machine without a GPU

Writes gpu.json and gpu.md. Each part is a process of its own; when one fails, what it failed on is in both.
Figures that must hold stand beside the most that they may be. Needs the extras gpu, export, search, serve
and nat, pytest, and numba-cuda for the evaluator on a GPU. Parts:

  tests      `pytest -m gpu`: the executor's tests on CUDA
  executor   a bundle of three networks: whole calls, the time inside the networks, and the bare `run` calls
             of plain sessions on the same rows
  buckets    each network at each size: `run` of a plain session, of padded batches, of rows gathered on the
             device; the first call of a size after the warm-up
  graphs     executor and buckets again, with CUDA graphs
  copies     what torch's profiler sees cross between host and device in one call
  evaluator  how many cascades a search evaluates in a second, on the processor and on the GPU; the counts of
             both must be equal
  loop       what users do with a pool (--pool, or the three networks): fp16 variants, time, memory, energy
             of all members, a search by latency that is refined on the device, decisions of what it found
  serve      `encas serve` with the bundle, driven by clients
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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
Row = Mapping[str, str | int | float | None]
LIMIT_S = 110  # of a part
_PACKAGES = ("encas", "numpy", "torch", "onnxruntime-gpu", "onnxruntime", "onnx", "numba")


@dataclass(frozen=True)
class Setting:
    """Where and how thoroughly."""

    provider: str
    quick: bool
    folder: Path  # for what is made on the way
    pool: Path | None = None  # of real networks and images

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
    parser.add_argument("--work", type=Path, help="where networks are kept for the next call")
    parser.add_argument("--pool", type=Path, help="for the loop; its members get times and fp16 variants")
    parser.add_argument("--part", choices=list(PARTS), help=argparse.SUPPRESS)  # this one, here
    options = parser.parse_args()
    if options.quick:
        os.environ["ENCAS_GPU_SIDE"] = "64"
    if options.part is not None:
        sys.path[:0] = [str(HERE), str(HERE / "search")]
        setting = Setting(options.provider, options.quick, options.work, options.pool)
        print(json.dumps(tried(PARTS[options.part], setting)))
        return
    options.out.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {"machine": machine(), "provider": options.provider, "quick": options.quick}
    with tempfile.TemporaryDirectory() as folder:
        work = options.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        for name in options.only:
            report[name] = apart(name, work)
            print(f"{name}: {report[name]['seconds']:.1f} s {report[name].get('failed', '')}", flush=True)
            (options.out / "gpu.json").write_text(json.dumps(report, indent=1) + "\n")
            (options.out / "gpu.md").write_text(as_markdown(report))
    print((options.out / "gpu.md").read_text())
    if any("failed" in report[name] for name in options.only):
        sys.exit(1)


def apart(name: str, work: Path) -> dict[str, Any]:
    """Run a part in a process of its own: a crash or a hang of one must not take the others along."""
    words, start_s = [*sys.argv[1:], "--work", str(work), "--part", name], time.perf_counter()
    try:
        done = subprocess.run(
            [sys.executable, "-X", "faulthandler", __file__, *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=LIMIT_S,
        )
        if done.returncode == 0:
            found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
            return found
        failed = f"ended with {done.returncode}: {done.stderr[-3000:]}"
    except subprocess.TimeoutExpired as error:
        failed = f"took more than {LIMIT_S} s: {(error.stderr or b'')[-1000:]!r}"
    return {"rows": [], "failed": failed, "seconds": time.perf_counter() - start_s}


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


def tried(part: Callable[[Setting], Iterable[Row]], setting: Setting) -> dict[str, Any]:
    """Run a part; a failure is a result too, and what was found before it stays."""
    start_s, rows = time.perf_counter(), []
    found: dict[str, Any] = {"rows": rows}
    try:
        for row in part(setting):
            rows.append(dict(row))
    except Exception as error:
        found |= {"failed": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
    return {**found, "seconds": time.perf_counter() - start_s}


def as_markdown(report: Mapping[str, Any]) -> str:
    """Write a table for each kind of rows."""
    lines = [", ".join(f"{key} {value}" for key, value in report["machine"].items()), ""]
    for name in PARTS:
        if name not in report:
            continue
        part = report[name]
        lines += [f"## {name} ({part['seconds']:.0f} s)", ""]
        if "failed" in part:
            lines += [f"failed: {part['failed']}", ""]
        for keys, rows in groupby(part["rows"], key=list):
            lines += [f"| {' | '.join(keys)} |", "|" + "---|" * len(keys)]
            lines += [f"| {' | '.join(shown(value) for value in row.values())} |" for row in rows] + [""]
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
            "tests/search/test_kernels_cuda.py",
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


def time_executor(setting: Setting, *, graphs: bool = False) -> list[Row]:
    from encas.runtime import CascadeExecutor
    from encas.runtime.preprocess import normalise
    from encas.runtime.session import open_session

    rows: list[Row] = []
    with CascadeExecutor(make_bundle(setting), setting.provider, cuda_graphs=graphs) as executor:
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
                    "executor - bare ms": whole_ms - bare_ms,
                    "executor / bare": whole_ms / bare_ms,
                    "at most": "0.15 ms" if batch == 1 else "1.03" if batch == 32 else "",
                    "images/s": 1e3 * batch / whole_ms,
                }
            )
    return rows


def time_buckets(setting: Setting, *, graphs: bool = False) -> list[Row]:
    from encas.bundle import Bundle
    from encas.runtime.buckets import open_buckets
    from encas.runtime.session import open_session

    bundle, rows = Bundle.open(make_bundle(setting)), []
    for member in bundle.stage_members:
        path, shape = bundle.path / member.file, member.preprocess.shape
        session = open_session(path, setting.provider, member.output)
        most = max(setting.batches)
        buckets = open_buckets(session, path, shape, len(bundle.labels), most, graphs=graphs)
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
                    "at most": 1.5,
                    "most difference": differs,
                    "nodes": str(buckets.session.assigned),
                    "graphs": "asked for" if graphs else "no",
                }
            )
    return rows


def time_graphs(setting: Setting) -> Iterator[Row]:
    yield from time_buckets(setting, graphs=True)
    yield from time_executor(setting, graphs=True)


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
    first = np.random.default_rng(2).integers(1, m + 1, size=(4000, 3))
    rows, counts = [], []
    for device in ("cpu", "cuda") if setting.device == "cuda" else ("cpu",):
        workers = usable_cores() if device == "cpu" else 1
        evaluator = Evaluator.open(pool, "val", members, costs, max_stages=5, workers=workers, device=device)
        searched(evaluator, 1000, 0)  # compiles
        timed, search_s, _ = searched(evaluator, evaluations, 1)
        genomes = np.random.default_rng(3).integers(evaluator.space.n_values, size=(4000, 9))
        genomes[:, :3] = first  # at least three stages
        counts.append(evaluator.counts(genomes))
        many_ms = setting.median_ms(partial(evaluator.counts, genomes))
        rows.append(
            {
                "device": device,
                "members": m,
                "samples": n,
                "classes": classes,
                "workers": workers,
                "evaluations": evaluations,
                "search s": search_s,
                "evaluations/s in the evaluator": evaluations / timed.seconds,
                "random ones, 4,000 together, /s": 4e6 / many_ms,
                "same counts": same(counts[0], counts[-1]),
            }
        )
    return rows


def same(a: Any, b: Any) -> str:
    """Say whether two sets of counts are equal."""
    return "yes" if np.array_equal(a.right, b.right) and np.array_equal(a.reached, b.reached) else "NO"


def encas(*words: object) -> str:
    """Run a command as a user would, and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "encas", *map(str, words)],
        cwd=HERE,  # where `torch:gpu_networks` is found
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    if done.returncode != 0:
        raise RuntimeError(f"encas {words[0]} {words[1]}: {done.stderr[-1500:]}")
    return done.stdout


def run_loop(setting: Setting) -> Iterator[Row]:
    if setting.pool is None:
        make_bundle(setting)
    pool, cuda = setting.pool or setting.folder / "pool", setting.device == "cuda"
    precision, batch = ("fp16", 8) if cuda else ("int8", 2)
    encas("pool", "quantize", pool, "--precision", precision, "--device", setting.device, "--allow-code")
    sizes = (1, 2, 4, 8, 64) if cuda else (1, 2)
    encas("pool", "measure", pool, "--provider", setting.provider, "--batch", *sizes, "--allow-code")
    yield from timed_members(pool)
    found = setting.folder / "front"
    encas(
        *("search", "--pool", pool, "--out", found, "--seed", 1, "--evaluations", 20_000, "--allow-code"),
        *("--objective", f"latency:{setting.provider}:{batch}", "--refine-on-device", 6),
    )
    yield from refined_rounds(found)
    yield from decided(setting, pool, found)


def timed_members(path: Path) -> list[Row]:
    from encas.pool import Pool

    pool = Pool.open(path)
    return [
        {
            "member": member.name,
            "batch": entry.batch,
            "ms": 1e3 * entry.latency_s,
            "prepare ms": 1e3 * entry.prepare_s,
            "noise": entry.noise,
            "memory MB": None if entry.memory_bytes is None else entry.memory_bytes / 1e6,
            "mJ per image": None if entry.energy_j is None else 1e3 * entry.energy_j,
            "accuracy": float(np.mean(pool.probs(member.name, "val").argmax(axis=1) == pool.labels("val"))),
        }
        for member in pool.file.members
        for entry in member.latency
        if entry.batch in (1, 8, 64)
    ]


def refined_rounds(found: Path) -> list[Row]:
    from encas.front import Front

    refinement = Front.open(found).file.refinement
    assert refinement is not None
    return [
        {"round": number, "cascade": trial.cascade, "ms": 1e3 * trial.measured_s, "off": trial.deviation}
        for number, part in enumerate(refinement.rounds, 1)
        for trial in part.trials
    ]


def decided(setting: Setting, pool_path: Path, found: Path) -> list[Row]:
    """Export cascades of the front, and compare what they decide on the device with what was recorded."""
    from encas.evaluation import recorded_answers
    from encas.export import export
    from encas.export.inputs import recorded_images
    from encas.export.parity import compare_decisions
    from encas.front import Front
    from encas.pool import Pool
    from encas.runtime import CascadeExecutor

    pool, rows = Pool.open(pool_path), []
    images = recorded_images(pool, "val")
    candidates = Front.open(found).candidates
    for at in sorted({0, len(candidates) // 2, len(candidates) - 1}):
        cascade = candidates[at].cascade
        path = setting.folder / f"exported-{at}"
        export(cascade, pool, path, samples=64, allow_code=True)
        with CascadeExecutor(path, setting.provider) as executor:
            parts = [executor.run(list(part)) for part in images.batches(32)]
        answers = type(parts[0])(
            **{name: np.concatenate([vars(part)[name] for part in parts]) for name in vars(parts[0])}
        )
        probs = [pool.probs(name, "val") for name in cascade.member_names]
        parity = compare_decisions(cascade, probs, answers, "val")
        recorded = recorded_answers(cascade, pool, "val")
        rows.append(
            {
                "exported": str(cascade),
                "images": parity.n,
                "other decisions": parity.different,
                "of them near a threshold": parity.near_threshold,
                "most difference": float(np.abs(answers.probs - recorded.probs).max()),
            }
        )
    return rows


def run_server(setting: Setting) -> list[Row]:
    import asyncio
    import socket
    import urllib.request

    sys.path.insert(0, str(HERE / "serving"))
    import client

    from encas.runtime import CascadeExecutor

    path, rows = make_bundle(setting), []
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    words = ["serve", str(path), "--provider", setting.provider, "--port", str(port)]
    with CascadeExecutor(path, setting.provider) as executor:
        bundle = executor.bundle
        images = [(bundle.path / sample.file).read_bytes() for sample in bundle.file.golden]
        expected = [int(stage) for stage in executor.run(images).exit_stage]
    with (setting.folder / "server.log").open("w") as log:
        server = subprocess.Popen([sys.executable, "-m", "encas", *words], stdout=log, stderr=log)
    try:
        ready = f"http://127.0.0.1:{port}/v2/health/ready"
        for _ in range(600):
            if server.poll() is not None:
                raise RuntimeError((setting.folder / "server.log").read_text()[-1500:])
            try:
                with urllib.request.urlopen(ready) as answer:
                    if answer.status == 200:
                        break
            except OSError:
                time.sleep(0.2)
        stages = [exit_stage(port, image) for image in images]
        calls = [client.Call("/predict", {"Content-Type": "image/png"}, image) for image in images]
        requests = [call.encoded(f"127.0.0.1:{port}") for call in calls]
        for concurrency in (1, 8, 32, 64):
            asyncio.run(client.closed_loop(port, requests, concurrency, 0.5))
            result = asyncio.run(client.closed_loop(port, requests, concurrency, 1 if setting.quick else 4))
            rows.append(
                {
                    "clients": concurrency,
                    "requests/s": result.per_s,
                    "p50 ms": result.quantile_ms(0.5),
                    "p99 ms": result.quantile_ms(0.99),
                    "other than 200": sum(len(v) for k, v in result.latencies_s.items() if k != 200),
                    "exits as the executor's": f"{sum(a == b for a, b in zip(stages, expected, strict=True))}"
                    f" of {len(expected)}",
                }
            )
    finally:
        server.terminate()
        server.wait(30)
    return rows


def exit_stage(port: int, image: bytes) -> int:
    import urllib.request

    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/predict", image, {"Content-Type": "image/png"}, method="POST"
    )
    with urllib.request.urlopen(request) as answer:
        return int(json.loads(answer.read())["predictions"][0]["exit_stage"])


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
    starts: list[float] = [time.perf_counter()]

    class Enough(Exception):
        """The time for this part is over."""

    def tell(_progress: Any) -> None:
        starts.append(time.perf_counter())  # the loss has been read, so the step is done
        if starts[-1] - starts[0] > 60:
            raise Enough

    with suppress(Enough):
        trainer.run(tell=tell)
    steps_s = np.diff(starts)
    peak = torch.cuda.max_memory_allocated() / 2**30 if setting.device == "cuda" else None
    return [
        {
            "space": name,
            "pixels": side,
            "batch": batch,
            "steps": len(steps_s),
            "first step ms": 1e3 * float(steps_s[0]),
            "median of the last half ms": 1e3 * float(np.median(steps_s[len(steps_s) // 2 :])),
            "peak GiB": peak,
        },
        *passes_of(supernet, space, setting, side, batch),
    ]


def passes_of(supernet: Any, space: Any, setting: Setting, side: int, batch: int) -> list[Row]:
    """Time a network forward and backward, by memory layout and precision: the first pass and later ones."""
    import torch

    device, rows = setting.device, []
    supernet = supernet.to(device).train()
    images = torch.randn(batch, 3, side, side, device=device)
    for layout in (torch.channels_last, torch.contiguous_format):
        supernet.to(memory_format=layout)
        for mixed in (True, False) if device == "cuda" else (False,):
            taken_s = []
            for _ in range(4):
                start_s = time.perf_counter()
                with torch.autocast(device, torch.bfloat16, enabled=mixed):
                    logits = supernet(images.contiguous(memory_format=layout), space.smallest)
                logits.float().sum().backward()
                if device == "cuda":
                    torch.cuda.synchronize()
                taken_s.append(time.perf_counter() - start_s)
            rows.append(
                {
                    "layout": str(layout),
                    "bfloat16": str(mixed),
                    "first pass ms": 1e3 * taken_s[0],
                    "later pass ms": 1e3 * min(taken_s[1:]),
                }
            )
    return rows


PARTS: dict[str, Callable[[Setting], Iterable[Row]]] = {
    "tests": run_tests,
    "executor": time_executor,
    "buckets": time_buckets,
    "graphs": time_graphs,
    "copies": count_copies,
    "loop": run_loop,
    "serve": run_server,
    "evaluator": time_evaluator,
    "nat": time_nat,
}

if __name__ == "__main__":
    main()
