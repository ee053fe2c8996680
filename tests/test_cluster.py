"""Jobs on two nodes that are processes of one machine: the same bytes, whatever is killed meanwhile."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip("ray", reason="Ray is not installed: pip install 'encas[ray]'")

from encas.cluster import Cluster, check_versions, connected
from encas.data import LabelledImages
from encas.errors import EncasError, InvalidInput, MissingPackage
from encas.export import MemberSpec, measure_pool_on, record
from encas.export.source import read_members
from encas.pool import Pool
from encas.preprocess import Preprocess
from encas.runtime.measure import this_machine
from encas.runtime.stopwatch import Stopwatch
from encas.search.seeds import Settings, search_seeds

pytestmark = pytest.mark.slow

ENCAS = Path(sys.executable).with_name("encas")
PREPROCESS = Preprocess(channels=1, size=(8, 8), interpolation="bilinear", mean=(0.0,), std=(1.0,))
NAMES = ("hidden004", "hidden008", "hidden016", "hidden032", "hidden064", "hidden128")
SMALL = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "include_dashboard": False}


@dataclass
class TwoNodes:
    """A head and one more node, of one core each."""

    made: Any  # ray.cluster_utils.Cluster
    second: Any
    address: str
    cluster: Cluster

    def workers(self, node: Any) -> list[int]:
        """Return the processes of a node that run a job now."""
        (raylet,) = node.all_processes["raylet"]
        found = []
        for entry in Path("/proc").iterdir():
            try:
                title = (entry / "cmdline").read_bytes()
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, ValueError):  # no process, or one that has just ended
                continue
            if title.startswith(b"ray::_called") and parent == raylet.process.pid:
                found.append(int(entry.name))
        return found

    def when_a_job_runs(self, node: Any, then: Callable[[int], None]) -> threading.Thread:
        """Do something to a node, or its worker, once it has been running a job for a moment."""

        def watch() -> None:
            deadline_s = time.monotonic() + 30
            while not self.workers(node) and time.monotonic() < deadline_s:
                time.sleep(0.005)
            time.sleep(0.1)
            then(self.workers(node)[0])

        thread = threading.Thread(target=watch)
        thread.start()
        return thread


@pytest.fixture(scope="module")
def nodes(ray_token: str) -> Iterator[TwoNodes]:
    assert ray_token
    utils = pytest.importorskip("ray.cluster_utils")
    made = utils.Cluster(initialize_head=True, head_node_args=SMALL)
    second = made.add_node(**SMALL)
    try:
        with connected(made.address) as cluster:
            yield TwoNodes(made, second, made.address, cluster)
    finally:
        made.shutdown()


@pytest.fixture
def members(digits_files: Path) -> list[MemberSpec]:
    """Six networks that prepare images in ways of their own, so that each is asked by itself."""
    listed = [
        {
            "source": f"onnx:networks/{name}.onnx",
            "preprocess": {**PREPROCESS.model_dump(), "divisor": 255.0 + j},
        }
        for j, name in enumerate(NAMES)
    ]
    (digits_files / "members.yml").write_text(yaml.safe_dump(listed))
    return list(read_members(digits_files / "members.yml"))


@pytest.fixture
def here(digits_files: Path, members: list[MemberSpec], tmp_path: Path) -> dict[str, bytes]:
    """What a recording on this machine alone writes."""
    record(tmp_path / "here", members, digits_files / "digits.npz", batch=1)
    return tree(tmp_path / "here")


@pytest.fixture
def arguments(members: list[MemberSpec], digits_files: Path, tmp_path: Path) -> list[str | Path]:
    """What records them on the command line."""
    assert members
    arguments: list[str | Path] = ["pool", "record", tmp_path / "pool", "--batch", "1"]
    arguments += ["--data", digits_files / "digits.npz", "--members", digits_files / "members.yml"]
    return arguments


def tree(folder: Path) -> dict[str, bytes]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def record_there(nodes: TwoNodes, members: list[MemberSpec], files: Path, pool: Path) -> Pool:
    return record(pool, members, files / "digits.npz", batch=1, cluster=nodes.cluster)


def test_a_recording_on_a_cluster_writes_the_same_bytes(
    nodes: TwoNodes, members: list[MemberSpec], here: dict[str, bytes], digits_files: Path, tmp_path: Path
) -> None:
    assert [node.cores for node in nodes.cluster.nodes] == [1, 1]
    record_there(nodes, members, digits_files, tmp_path / "pool")
    assert tree(tmp_path / "pool") == here


def test_a_worker_that_is_killed_is_replaced(
    nodes: TwoNodes, members: list[MemberSpec], here: dict[str, bytes], digits_files: Path, tmp_path: Path
) -> None:
    killed: list[int] = []

    def kill(pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        killed.append(pid)

    thread = nodes.when_a_job_runs(nodes.second, kill)
    record_there(nodes, members, digits_files, tmp_path / "pool")
    thread.join()
    assert len(killed) == 1 and tree(tmp_path / "pool") == here


def test_what_a_lost_node_was_doing_is_done_elsewhere(
    nodes: TwoNodes, members: list[MemberSpec], here: dict[str, bytes], digits_files: Path, tmp_path: Path
) -> None:
    lost = nodes.second
    thread = nodes.when_a_job_runs(lost, lambda _pid: nodes.made.remove_node(lost, allow_graceful=False))
    record_there(nodes, members, digits_files, tmp_path / "pool")
    thread.join()
    assert tree(tmp_path / "pool") == here
    assert lost not in nodes.made.list_all_nodes()
    nodes.second = nodes.made.add_node(**SMALL)


def test_after_a_killed_driver_the_same_command_goes_on(
    nodes: TwoNodes, arguments: list[str | Path], here: dict[str, bytes], tmp_path: Path
) -> None:
    pool, command = tmp_path / "pool", [ENCAS, *arguments, "--ray", nodes.address]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, **quiet)  # type: ignore[call-overload]
    while process.poll() is None and not ((pool / "pool.json").exists() and Pool.open(pool).names):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it had finished before it could be killed"
    done = Pool.open(pool).names
    assert 0 < len(done) < len(NAMES)
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert tree(pool) == here


def test_other_packages_on_a_machine_are_an_error_that_names_it(
    nodes: TwoNodes, members: list[MemberSpec], digits_files: Path, tmp_path: Path
) -> None:
    older = replace(
        nodes, cluster=replace(nodes.cluster, versions={**nodes.cluster.versions, "numpy": "1.26"})
    )
    with pytest.raises(InvalidInput, match=r": has numpy 2.*, the machine that asks it has 1\.26; install"):
        record_there(older, members, digits_files, tmp_path / "pool")
    assert not (tmp_path / "pool").exists()
    with pytest.raises(InvalidInput, match="node-7: lacks timm, the machine that asks it has 1"):
        check_versions({"timm": "1.0"}, {"numpy": "2.4"}, "node-7")


def test_what_a_job_finds_wrong_is_one_line_with_its_machine(
    nodes: TwoNodes, members: list[MemberSpec], digits_files: Path, tmp_path: Path
) -> None:
    broken = MemberSpec(source=members[0].source, name="broken")
    with pytest.raises(EncasError, match=r"does not say how to prepare an image; .* \(on .*\)$"):
        record_there(nodes, [broken], digits_files, tmp_path / "pool")


def test_a_pool_that_cannot_be_written_is_refused_before_anything_is_computed(
    nodes: TwoNodes, members: list[MemberSpec], digits_files: Path
) -> None:
    with pytest.raises(InvalidInput, match=r"/proc/pool: cannot be written here \(.*\); name another folder"):
        record_there(nodes, members, digits_files, Path("/proc/pool"))


def test_what_ray_has_no_room_for_is_one_line(
    nodes: TwoNodes, members: list[MemberSpec], tmp_path: Path
) -> None:
    for side, n, said in (
        (8, 2_000_000, r"takes 1\d\d MiB"),
        (1, 2_000_000, "to 2000000 images take 38 MiB"),
    ):
        images = np.zeros((n, side, side), np.uint8)
        np.savez(tmp_path / "large.npz", images=images, labels=np.zeros(n, np.int64))
        with pytest.raises(EncasError, match=rf"{said}, Ray has room for 25"):
            record(tmp_path / "pool", members, tmp_path / "large.npz", cluster=nodes.cluster)


def test_jobs_for_gpus_need_a_machine_that_has_one(
    nodes: TwoNodes, members: list[MemberSpec], digits_files: Path, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match="no machine of the cluster has a GPU"):
        record(tmp_path / "p", members, digits_files / "digits.npz", device="cuda", cluster=nodes.cluster)


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingPackage, match=r"pip install 'encas\[ray\]'"), connected():
        pass


def failing(code: str, *arguments: str | Path) -> str:
    """Run the command line after some code, and return its one line."""
    whole = f"import sys\n{code}\nsys.argv[0] = 'encas'\nfrom encas.__main__ import main\nmain()"
    done = subprocess.run(
        [sys.executable, "-c", whole, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def test_a_wrong_address_is_one_line(arguments: list[str | Path]) -> None:
    said = failing("", *arguments, "--ray", "127.0.0.1:1")
    assert said.startswith("encas: --ray 127.0.0.1:1: no Ray cluster answers there; give what 'ray start")


def test_a_cluster_of_another_ray_is_one_line(nodes: TwoNodes, arguments: list[str | Path]) -> None:
    said = failing("import ray; ray.__version__ = '2.41.0'", *arguments, "--ray", nodes.address)
    assert "2.41.0" in said and "2.60" in said


def test_members_are_timed_on_each_kind_of_machine_once(
    nodes: TwoNodes, members: list[MemberSpec], digits_files: Path, tmp_path: Path
) -> None:
    pool = record(tmp_path / "pool", members[:2], digits_files / "digits.npz", rows=":20")
    made, found = measure_pool_on(
        nodes.cluster, pool, batches=[1, 8], provider="cpu", stopwatch=Stopwatch(budget_s=0.05)
    )
    assert [one.machine for one in found] == [this_machine("cpu")], "both nodes are this machine"
    for member in made.file.members:
        assert [entry.batch for entry in member.latency] == [1, 8]
        assert {entry.machine for entry in member.latency} == {this_machine("cpu").name}


def test_seeds_that_are_searched_on_a_cluster_find_the_same_fronts(
    nodes: TwoNodes, pool_path: Path, tmp_path: Path
) -> None:
    pool, settings = Pool.open(pool_path), Settings(evaluations=2000)
    (here,) = search_seeds(pool, [1], tmp_path / "here", settings)
    (there,) = search_seeds(pool, [1], tmp_path / "there", settings, cluster=nodes.cluster)
    assert here.file.candidates == there.file.candidates
    assert {p.name for p in there.path.iterdir()} == {"front.json", "front.png", "front.html"}
    done: list[str] = []
    again = search_seeds(
        pool,
        [1, 2],
        tmp_path / "there",
        settings,
        cluster=nodes.cluster,
        progress=lambda _n, words: done.append(words),
    )
    assert done == ["found already", "seed 2"] and [front.file.seed for front in again] == [1, 2]


def test_candidates_that_are_judged_on_a_cluster_are_worth_the_same(nodes: TwoNodes, digits: Any) -> None:
    torch = pytest.importorskip("torch")
    from encas.search.nat import SPACES, Supernet
    from encas.search.nat.evaluate import Judge, Prepared
    from encas.search.nat.spread import judged_on

    space = SPACES["tiny-alphanet"]
    supernet = Supernet(space, 10, torch.Generator().manual_seed(1)).eval()
    colour = np.repeat(digits.images[:80, :, :, None], 3, axis=3)
    preprocess = Preprocess(size=(32, 32), interpolation="bilinear", mean=(0.5,) * 3, std=(0.5,) * 3)
    val, calibration = (
        Prepared(LabelledImages(colour[rows], digits.labels[:80][rows], None), preprocess)
        for rows in (slice(40), slice(40, 80))
    )
    judge, chosen = Judge(val, calibration), [(0, space.smallest), (0, space.largest), (0, space.smallest)]
    found = dict(judged_on(nodes.cluster, judge, [supernet], chosen, "cpu"))
    assert found == {row: judge.objectives(supernet, arch) for row, (_, arch) in enumerate(chosen)}
    assert found[0] == found[2] and found[0][1] < found[1][1]


def test_processes_on_two_nodes_train_a_supernetwork_to_the_bytes_of_two_processes_here(
    nodes: TwoNodes, digits: Any, tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("pymoo")
    from encas.export.transfer import transfer
    from encas.search.nat.config import NatConfig

    np.savez(tmp_path / "digits.npz", images=digits.images[:240], labels=digits.labels[:240])
    config = NatConfig.model_validate(
        {
            "space": "tiny-alphanet",
            "data": {
                "train": {"path": "digits.npz", "rows": ":200"},
                "val": {"path": "digits.npz", "rows": "200:"},
                "classes": 10,
            },
            "start": {"epochs": 0.5, "batch": 16},
            "loop": {
                "iterations": 1,
                "first": 3,
                "candidates": 3,
                "epochs": 0.2,
                "batch": 16,
                "surrogate_evaluations": 100,
                "predictor_members": 2,
                "calibration_images": 16,
            },
            "final": {"networks": 2, "calibration_images": 16},
        }
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as a node has one core
    try:
        for name, cluster in (("here", None), ("there", nodes.cluster)):
            run, pool = tmp_path / name / "run", tmp_path / name / "pool"
            transfer(config, run, pool, data=tmp_path, processes=2, cluster=cluster)
    finally:
        torch.set_num_threads(threads)
    here, there = (
        {
            place: content
            for place, content in tree(tmp_path / name).items()
            if place.endswith((".safetensors", ".npy", ".npz"))
        }
        for name in ("here", "there")
    )
    assert len(here) > 8 and here == there
    with pytest.raises(InvalidInput, match="--processes 4: the cluster has room for 2, of 1 cores each"):
        transfer(
            config, tmp_path / "four", tmp_path / "pool", data=tmp_path, processes=4, cluster=nodes.cluster
        )


def test_the_searches_of_an_experiment_run_on_a_cluster(
    nodes: TwoNodes, pool_path: Path, tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("pymoo")
    from encas.search.experiment.config import Experiment
    from encas.search.experiment.run import Runner

    experiment = Experiment.model_validate(
        {
            "title": "two seeds",
            "runs": 2,
            "pools": {"digits": {"pool": pool_path.name}},
            "searches": {"cascades": {"pools": ["digits"], "evaluations": 300, "algorithm": "random"}},
        }
    )
    found = [
        Runner(experiment, tmp_path, tmp_path / name, tmp_path, cluster=cluster).run()
        for name, cluster in (("here", None), ("there", nodes.cluster))
    ]
    here, there = ([one.model_copy(update={"seconds": 0}) for one in results] for results in found)
    assert len(here) == 4 and here == there
