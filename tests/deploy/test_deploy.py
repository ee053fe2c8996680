"""What lies in deploy/ is read by the programs that it is for, or by their schemas; nothing is started."""

import copy
import json
import re
import shlex
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from packaging.requirements import Requirement

from encas.cli import app
from encas.serve.metrics import Metrics

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
BIN = Path(sys.executable).parent
# The fields of KServe's own in a predictor, beside those of a pod, with their types. Source: the models of
# PyPI's kserve 0.21, V1beta1PredictorSpec.
KSERVE_FIELDS = {
    "minReplicas": int,
    "maxReplicas": int,
    "scaleTarget": int,
    "scaleMetric": str,
    "containerConcurrency": int,
    "timeout": int,
    "canaryTrafficPercent": int,
}


def manifests(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


def parse_serve(arguments: list[str]) -> dict[str, Any]:
    """The options of a command line of `encas serve`."""
    command = typer.main.get_command(app)
    context = command.make_context("encas", ["serve", *arguments])
    name, serve, rest = command.resolve_command(context, ["serve", *arguments])  # type: ignore[attr-defined]
    assert serve is not None and name == "serve"
    return dict(serve.make_context("serve", rest[:], parent=context).params)


def instruction(name: str) -> str:
    """The last line of a kind in the Dockerfile."""
    lines = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    return [line.removeprefix(name).strip() for line in lines if line.startswith(f"{name} ")][-1]


class TestDockerfile:
    @pytest.mark.parametrize("variant", ["deploy", "exported"])
    def test_hadolint_finds_nothing(self, variant: str, tmp_path: Path) -> None:
        path = DEPLOY / "Dockerfile"
        if variant == "exported":
            path = tmp_path / "Dockerfile"
            template = ROOT / "export/templates/Dockerfile.txt"
            path.write_text(template.read_text().replace("@port@", "8080").replace("@version@", "0.1.0"))
        done = subprocess.run([BIN / "hadolint", path], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout + done.stderr) == (0, "")

    def test_it_does_not_run_as_root(self) -> None:
        assert instruction("USER") == "10001"
        assert re.search(r"^USER \d+$", (ROOT / "export/templates/Dockerfile.txt").read_text(), re.MULTILINE)

    def test_what_it_runs_is_a_command_of_ours(self) -> None:
        entry, rest = json.loads(instruction("ENTRYPOINT")), json.loads(instruction("CMD"))
        assert entry[:2] == ["encas", "serve"]
        options = parse_serve([*entry[2:], *rest])
        assert (options["host"], options["port"], options["grpc_port"]) == ("0.0.0.0", 8000, 8001)
        assert options["repository"] == Path("/models")
        assert instruction("EXPOSE").split() == ["8000", "8001"]

    def test_what_it_copies_is_there_and_what_it_installs_has_no_torch(self) -> None:
        allowed = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
        for line in allowed:
            assert not line.startswith("!") or (ROOT / line[1:]).exists(), line
        for package in ("encas", "search", "export", "runtime", "serve"):
            assert f"!{package}" in allowed
        found = needed("encas", frozenset({"cpu", "serve"}))
        assert {"onnxruntime", "fastapi", "uvicorn", "grpcio"} <= found
        assert not found & {"torch", "torchvision", "timm", "onnx", "pymoo", "scipy"}


def needed(name: str, extras: frozenset[str]) -> set[str]:
    """Packages that an install brings, by what the installed ones say."""
    waiting, found = [(name, extras)], set()
    while waiting:
        name, extras = waiting.pop()
        if (name, extras) in found:
            continue
        found.add((name, extras))
        try:
            lines = metadata.requires(name) or []
        except metadata.PackageNotFoundError:  # of another platform
            continue
        for requirement in map(Requirement, lines):
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras or {""}):
                waiting.append((requirement.name.lower(), frozenset(requirement.extras)))
    return {name for name, _ in found}


class TestKubernetes:
    def test_every_manifest_fits_its_schema(self) -> None:
        validate = pytest.importorskip("kubernetes_validate").validate
        found = manifests("kubernetes.yaml")
        for manifest in found:
            validate(manifest, "1.37", strict=True)
        kinds = [manifest["kind"] for manifest in found]
        assert kinds == [
            "Deployment",
            "Service",
            "PodDisruptionBudget",
            "HorizontalPodAutoscaler",
            "NetworkPolicy",
        ]

    def test_a_manifest_with_a_slip_does_not(self) -> None:
        kubernetes = pytest.importorskip("kubernetes_validate")
        wrong = manifests("kubernetes.yaml")[0]
        wrong["spec"]["template"]["spec"]["containers"][0]["imag"] = "encas"
        with pytest.raises(kubernetes.ValidationError):
            kubernetes.validate(wrong, "1.37", strict=True)

    def test_kserves_predictor_is_a_pod_with_fields_of_its_own(self) -> None:
        validate = pytest.importorskip("kubernetes_validate").validate
        (manifest,) = manifests("kserve.yaml")
        assert set(manifest) == {"apiVersion", "kind", "metadata", "spec"}
        assert (manifest["apiVersion"], manifest["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
        assert set(manifest["spec"]) == {"predictor"}
        pod = copy.deepcopy(manifest["spec"]["predictor"])
        for name in set(pod) & set(KSERVE_FIELDS):
            assert type(pod.pop(name)) is KSERVE_FIELDS[name]
        validate(
            {"apiVersion": "v1", "kind": "Pod", "metadata": manifest["metadata"], "spec": pod},
            "1.37",
            strict=True,
        )
        assert pod["containers"][0]["name"] == "kserve-container"

    @pytest.mark.parametrize("name", ["kubernetes.yaml", "kserve.yaml"])
    def test_what_runs_in_a_pod_fits_the_image(self, name: str) -> None:
        spec = manifests(name)[0]["spec"]
        pod = spec["predictor"] if name == "kserve.yaml" else spec["template"]["spec"]
        (container,) = pod["containers"]
        entry = json.loads(instruction("ENTRYPOINT"))
        options = parse_serve([*entry[2:], *container["args"]])
        assert options["port"] == container["ports"][0]["containerPort"]
        assert str(options["threads"]) == container["resources"]["limits"]["cpu"]
        assert pod["securityContext"]["runAsUser"] == int(instruction("USER"))
        assert container["securityContext"]["readOnlyRootFilesystem"]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert set(mounts) == {volume["name"] for volume in pod["volumes"]}
        assert str(options["repository"]) == mounts["models"]
        if name == "kubernetes.yaml":
            assert str(options["token_file"]).startswith(mounts["tokens"] + "/")
            assert pod["terminationGracePeriodSeconds"] > options["grace_s"]


class TestSystemd:
    def service(self) -> str:
        return (DEPLOY / "encas.service").read_text()

    @pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd")
    def test_systemd_finds_nothing_wrong(self, tmp_path: Path) -> None:
        unit = tmp_path / "encas.service"
        unit.write_text(self.service().replace("/opt/encas/bin/encas", str(BIN / "encas")))
        done = subprocess.run(
            ["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False
        )
        said = [line for line in (done.stdout + done.stderr).splitlines() if "encas" in line]
        assert (done.returncode, said) == (0, [])

    def test_what_it_runs_is_a_command_of_ours(self) -> None:
        (line,) = re.findall(r"^ExecStart=(.*)$", self.service(), re.MULTILINE)
        encas, serve, *rest = shlex.split(line)
        assert (Path(encas).name, serve) == ("encas", "serve")
        options = parse_serve(rest)
        assert options["host"] == "127.0.0.1"
        (stop_s,) = re.findall(r"^TimeoutStopSec=(\d+)$", self.service(), re.MULTILINE)
        assert int(stop_s) > options["grace_s"]


def metric_names() -> set[str]:
    """Every series that /metrics may give."""
    names: set[str] = set()
    for name, kind in re.findall(r"^# TYPE (\w+) (\w+)$", Metrics().text().decode(), re.MULTILINE):
        names |= {f"{name}_{end}" for end in ("bucket", "sum", "count")} if kind == "histogram" else {name}
    return names


def names_in(expression: str) -> set[str]:
    """The series that a query asks for; it is parsed as Prometheus does."""
    promql = pytest.importorskip("promql_parser")
    found: set[str] = set()

    def walk(node: Any) -> None:
        if isinstance(node, promql.VectorSelector):
            found.add(node.name)
        elif isinstance(node, promql.MatrixSelector):
            walk(node.vector_selector)
        elif isinstance(node, promql.Call):
            for argument in node.args:
                walk(argument)
        elif isinstance(node, promql.BinaryExpr):
            walk(node.lhs)
            walk(node.rhs)
        elif not isinstance(node, (promql.NumberLiteral, promql.StringLiteral)):
            walk(node.expr)

    walk(promql.parse(expression.replace("$__rate_interval", "5m")))
    return found


class TestMonitoring:
    def dashboard(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((DEPLOY / "grafana.json").read_text())
        return found

    def queries(self) -> list[str]:
        return [target["expr"] for panel in self.dashboard()["panels"] for target in panel["targets"]]

    def test_every_metric_of_the_dashboard_and_the_alerts_is_one_of_ours(self) -> None:
        groups = yaml.safe_load((DEPLOY / "alerts.yaml").read_text())["groups"]
        alerts = [rule["expr"] for group in groups for rule in group["rules"]]
        asked = {name for query in [*self.queries(), *alerts] for name in names_in(query)}
        assert asked <= metric_names()
        assert len(asked) > 15

    def test_a_query_for_another_metric_would_be_noticed(self) -> None:
        assert names_in("sum(rate(encas_requests[$__rate_interval])) / 2") - metric_names()

    def test_its_panels_have_places_and_numbers_of_their_own(self) -> None:
        panels: list[dict[str, Any]] = self.dashboard()["panels"]
        taken: set[tuple[int, int]] = set()
        assert len({panel["id"] for panel in panels}) == len(panels)
        for panel in panels:
            place = panel["gridPos"]
            assert place["x"] + place["w"] <= 24
            cells = {(place["x"] + i, place["y"] + j) for i in range(place["w"]) for j in range(place["h"])}
            assert not cells & taken, panel["title"]
            taken |= cells
