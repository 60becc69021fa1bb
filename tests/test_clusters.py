"""Files for clusters: they have the form that is asked for, and name what there is."""

import copy
import functools
import importlib.metadata
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import typer
import yaml

from cli.main import app
from pipeline.config import load
from pipeline.entries import build_explainers
from pipeline.schedule.export import kubernetes as exported
from tests.kubernetes_schemas import VALIDATORS, errors_in

ROOT = Path(__file__).parent.parent
CLUSTERS = ROOT / "clusters"
LAUNCHED = ("aws.yaml", "gcp.yaml", "on_premise.yaml")
KUBERNETES = sorted(path.name for path in CLUSTERS.glob("ku*.yaml"))
ALL = sorted(path for path in CLUSTERS.iterdir() if path.is_file() and path.suffix != ".py")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def text_of(name: str) -> str:
    return (CLUSTERS / name).read_text()


@functools.cache
def documents(name: str, *, with_volume: bool = False) -> list[dict[str, Any]]:
    text = text_of(name)
    return list(yaml.safe_load_all(text.replace("#volume ", "") if with_volume else text))


def document(kind: str) -> dict[str, Any]:
    found = [each for name in KUBERNETES for each in documents(name) if each["kind"] == kind]
    return found[0]


def commands_of(text: str, *program: str) -> Iterator[list[str]]:
    """Command lines of a program in a script, without what the shell does with them."""
    joined = re.sub(r"\\\n\s*", " ", text)
    for line in re.split(r"[\n;]|&&| -- ", joined):
        words = shlex.split(line.strip().removesuffix("&"), comments=True)
        words = [word.rpartition("/")[2] if "bin/" in word else word for word in words]
        if words[: len(program)] == list(program):
            yield words[len(program) :]


def parse(words: list[str]) -> dict[str, Any]:
    """Options of an xpipe command line; what it does not know is a usage error."""
    assert words[0] == "xpipe"
    return COMMANDS[words[1]].make_context(words[1], words[2:]).params


# Kubernetes


@pytest.mark.parametrize("with_volume", [False, True])
@pytest.mark.parametrize("name", KUBERNETES)
def test_files_for_kubernetes_have_the_fields_of_their_kinds(name: str, with_volume: bool) -> None:
    for resource in documents(name, with_volume=with_volume):
        assert errors_in(resource) == []


def test_exit_codes_and_secret_are_those_of_exported_schedules() -> None:
    ours = document("CronJob")["spec"]["jobTemplate"]["spec"]["podFailurePolicy"]["rules"][0]
    assert ours["onExitCodes"]["values"] == exported._REFUSED
    secret = documents("kuberay_cluster.yaml")[0]["spec"]["authOptions"]["secretName"]
    assert secret == exported.TOKEN


def broken(resource: dict[str, Any], path: str, value: Any = None) -> dict[str, Any]:
    """A copy in which a field has another value, or is not there if there is none."""
    changed = copy.deepcopy(resource)
    *parents, last = [int(key) if key.isdecimal() else key for key in path.split("/")]
    last = str(last).replace("|", "/") if isinstance(last, str) else last
    inner: Any = changed
    for key in parents:
        inner = inner[key]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return changed


WORKER = "spec/workerGroupSpecs/0"
IN_WORKER = f"{WORKER}/template/spec/containers/0"


@pytest.mark.parametrize(
    ("kind", "path", "value", "said"),
    [
        ("RayCluster", "spec/workerGroupSpec", [], "workerGroupSpec"),
        ("RayCluster", f"{IN_WORKER}/resources/limits/nvidia.com|gpu", None, "nvidia.com/gpu"),
        ("RayCluster", f"{IN_WORKER}/resources/limits/nvidia.com|gpu", "0.5", "0.5"),
        ("RayCluster", f"{WORKER}/maxReplicas", None, "maxReplicas"),
        ("RayCluster", f"{WORKER}/maxReplica", 4, "maxReplica"),
        ("RayCluster", f"{WORKER}/template/spec/tolerations", None, "tolerations"),
        ("RayCluster", f"{WORKER}/rayStartParams/metrics-export-port", 8080, "8080"),
        ("RayCluster", "spec/authOptions", None, "authOptions"),
        ("RayCluster", "spec/authOptions/mode", "disabled", "disabled"),
        ("RayCluster", f"{IN_WORKER}/image", "registry.example.com/xpipe", "registry"),
        ("RayCluster", "apiVersion", "ray.io/v1alpha1", "v1alpha1"),
        ("RayJob", "spec/entryPoint", "xpipe run", "entryPoint"),
        ("RayJob", "spec/runtimeEnvYAML", {"env_vars": {}}, "env_vars"),
        ("RayJob", "spec/backoffLimit", -1, "-1"),
        ("RayCronJob", "spec/timezone", "UTC", "timezone"),
        ("RayCronJob", "spec/schedule", "@nightly", "@nightly"),
        ("RayCronJob", "spec/concurrencyPolicy", "Forbid", "concurrencyPolicy"),
        ("CronJob", "spec/concurrencyPolicy", "Never", "Never"),
        ("CronJob", "spec/jobTemplate/spec/template/spec/restartPolicy", None, "restartPolicy"),
        ("PersistentVolumeClaim", "spec/accessModes/0", "ReadWriteAll", "ReadWriteAll"),
        ("NetworkPolicy", "spec/ingress/1/ports/0/port", 82650, "82650"),
    ],
)
def test_mistakes_in_files_for_kubernetes_are_found(
    kind: str, path: str, value: Any, said: str
) -> None:
    messages = errors_in(broken(document(kind), path, value))
    assert any(said in message for message in messages), messages


def test_the_schemas_are_schemas() -> None:
    # those of the others are parts of these
    for kind in ("RayCronJob", "CronJob", "NetworkPolicy", "PersistentVolumeClaim"):
        VALIDATORS[kind].check_schema(VALIDATORS[kind].schema)


def test_all_three_files_for_kuberay_have_one_cluster() -> None:
    cluster = document("RayCluster")["spec"]
    assert document("RayJob")["spec"]["rayClusterSpec"] == cluster
    assert document("RayCronJob")["spec"]["jobTemplate"]["rayClusterSpec"] == cluster


def test_every_name_that_a_file_for_kubernetes_refers_to_is_there() -> None:
    made = {
        (each["kind"], each["metadata"]["name"]) for name in KUBERNETES for each in documents(name)
    }
    for name in KUBERNETES:
        text = json.dumps(documents(name, with_volume=True))
        for found in re.findall(r'"configMap": {"name": "([^"]+)"', text):
            assert ("ConfigMap", found) in made
        for found in re.findall(r'"claimName": "([^"]+)"', text):
            assert ("PersistentVolumeClaim", found) in made
        for found in re.findall(r"http://([a-z-]+)-head-svc", text):
            assert ("RayCluster", found) in made
        for found in re.findall(r'"(?:secretName|secretKeyRef)": (?:{"name": )?"([^"]+)"', text):
            assert f"secret generic {found}" in text_of("README.md")


def test_what_submits_is_let_through_to_the_job_server_and_to_nothing_else() -> None:
    submits = document("CronJob")["spec"]["jobTemplate"]["spec"]["template"]["metadata"]["labels"]
    rules = document("NetworkPolicy")["spec"]["ingress"]
    wanted = [
        rule
        for rule in rules
        for each in rule.get("from", ())
        if each["podSelector"]["matchLabels"].items() <= submits.items()
    ]
    assert [[port["port"] for port in rule["ports"]] for rule in wanted] == [[8265]]
    # from anywhere: figures only
    assert [rule["ports"][0]["port"] for rule in rules if "from" not in rule] == [8080]


@pytest.mark.parametrize("kind", ["RayJob", "RayCronJob"])
def test_entrypoints_are_commands_and_stops_are_orderly(kind: str) -> None:
    spec = document(kind)["spec"]
    spec = spec.get("jobTemplate", spec)
    parameters = parse(shlex.split(spec["entrypoint"]))
    assert parameters["address"] == "auto"
    assert str(parameters["config"]) == "/etc/xpipe/run.yaml"
    variables = yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"]
    assert variables == {"RAY_JOB_STOP_WAIT_TIME_S": "600", "RAY_JOB_STOP_SIGNAL": "SIGINT"}


def test_the_pod_that_submits_calls_a_command() -> None:
    (pod,) = document("CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert parse(pod["command"] + pod["args"])["address"] == "http://xpipe-head-svc:8265"


@pytest.mark.parametrize("kind", ["RayJob", "RayCronJob", "CronJob"])
def test_the_run_file_for_kubernetes_is_one(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(document("ConfigMap")["data"]["run.yaml"])
    spec = document(kind)["spec"]["jobTemplate" if "Cron" in kind else "rayClusterSpec"]
    words = shlex.split(spec.get("entrypoint", ""))
    if kind == "CronJob":
        words = spec["spec"]["template"]["spec"]["containers"][0]["args"]
    overrides = [word for word in words if word.startswith("output.path=")]
    config = load(path, overrides)
    assert build_explainers(config).keys() == {"integrated_gradients", "lrp"}
    assert re.fullmatch(r"s3://bucket/runs/photographs(-\d{4}-\d\d-\d\d)?", config.output.path)
    assert bool(overrides) == ("-20" in config.output.path)
    # what the run file asks for fits on a worker
    worker = document("RayCluster")["spec"]["workerGroupSpecs"][0]["template"]["spec"]
    limits = worker["containers"][0]["resources"]["limits"]
    assert config.engine.gpus_per_worker == float(limits["nvidia.com/gpu"])
    assert config.engine.threads <= int(limits["cpu"])


# `ray up`


def prepared(config: dict[str, Any]) -> dict[str, Any]:
    """A file for `ray up` as Ray itself reads it, without a network."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    whole = prepare_config(copy.deepcopy(config))
    validate_config(whole)
    return dict(whole)


@pytest.mark.parametrize("name", LAUNCHED)
def test_ray_takes_the_files_for_ray_up(name: str) -> None:
    (config,) = documents(name)
    whole = prepared(config)
    types = whole["available_node_types"]
    workers = [kind for kind in types if kind != whole["head_node_type"]] or list(types)
    assert all(0 <= types[kind]["min_workers"] <= types[kind]["max_workers"] for kind in workers)
    if name != "on_premise.yaml":
        assert types["head"]["max_workers"] == 0
        assert types["spot_gpu"]["resources"]["GPU"] >= 1
        # what is on demand is the head
        assert "spot" not in str(types["head"]).lower()
        assert "spot" in str(types["spot_gpu"]["node_config"]).lower()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("max_worker", 3),
        ("provider/type", None),
        ("auth/ssh_key", "~/.ssh/id"),
        ("available_node_types/spot_gpu/resources/GPU", "1"),
        ("available_node_types/spot_gpu/max_worker", 3),
        ("docker/container", "xpipe"),
    ],
)
def test_mistakes_in_files_for_ray_up_are_found(path: str, value: Any) -> None:
    (config,) = documents("aws.yaml")
    with pytest.raises((jsonschema.ValidationError, KeyError)):
        prepared(broken(config, path, value))


@pytest.mark.slow  # all of Ray's command line is imported
@pytest.mark.parametrize("name", LAUNCHED)
def test_nodes_are_started_by_commands_of_ray_with_the_token(name: str) -> None:
    from ray.scripts import scripts

    (config,) = documents(name)
    for role in ("head", "worker"):
        text = config[f"{role}_start_ray_commands"][1]
        (words,) = commands_of(text, "ray", "start")
        parameters = scripts.start.make_context("start", words).params
        assert parameters["head"] == (role == "head")
        assert parameters["metrics_export_port"] == 8080
        # reached by ssh alone
        assert parameters["dashboard_host"] == "127.0.0.1"
        # set before Ray starts, and from the folder that is copied
        before = text[: text.index("ray start")]
        assert "RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$HOME/xpipe/token" in before
    assert config["file_mounts"] == {"~/xpipe": "~/xpipe-cluster"}
    assert "RAY_JOB_STOP_WAIT_TIME_S=600" in config["head_start_ray_commands"][1]


# Slurm


def test_scripts_pass_shellcheck() -> None:
    checker = Path(sys.executable).parent / "shellcheck"
    scripts = [path for path in ALL if text_of(path.name).startswith("#!")]
    assert [path.name for path in scripts] == ["slurm.sbatch"]
    found = subprocess.run([checker, *scripts], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout


STAND_INS = {
    # options with `=` and nothing else come before the command
    "srun": 'while [[ $1 == --* ]]; do shift; done; exec "$@"',
    "scontrol": 'echo "scontrol $*" >> "$CALLS"; [[ $1 == show ]] && printf "n1\\nn2\\n"; true',
    # the driver: notes what it sees, and is live until it is asked to stop
    "ray": 'echo "ray $*" >> "$CALLS"; stat -c %a "$RAY_AUTH_TOKEN_PATH" >> "$CALLS"; '
    'wc -c < "$RAY_AUTH_TOKEN_PATH" >> "$CALLS"; touch "$LIVE"; '
    '[[ -n ${ENDS:-} ]] && exit "$ENDS"; '
    "while [[ -e $LIVE ]]; do sleep 0.02; done; exit 130",
    "xpipe": 'echo "xpipe $*" >> "$CALLS"; rm -f "$LIVE"',
}


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """An environment as Slurm's, in which its commands are stand-ins that note their calls."""
    programs = tmp_path / "venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "activate").write_text("")
    for name, body in STAND_INS.items():
        path = programs / name
        path.write_text(f"#!/usr/bin/env bash\n{body}\n")
        path.chmod(0o755)
    return {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "VENV": str(tmp_path / "venv"),
        "CALLS": str(tmp_path / "calls"),
        "LIVE": str(tmp_path / "live"),
        "RUN": "/shared/runs/audit",
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_NODELIST": "n[1-2]",
        "SLURM_JOB_ID": "4711",
        "SLURM_CPUS_PER_TASK": "32",
        "SLURM_GPUS_ON_NODE": "4",
    }


def called(environment: dict[str, str]) -> list[str]:
    return Path(environment["CALLS"]).read_text().splitlines()


def test_the_slurm_script_starts_ray_with_a_token_of_its_own(slurm: dict[str, str]) -> None:
    from ray.scripts import symmetric_run

    done = subprocess.run(
        ["bash", CLUSTERS / "slurm.sbatch", "audit.yaml"], env={**slurm, "ENDS": "5"}, check=False
    )
    assert done.returncode == 5
    nodes, started, mode, n_bytes = called(slurm)
    assert nodes == "scontrol show hostnames n[1-2]"
    # readable by its owner only, 32 bytes in hexadecimal digits, and gone at the end
    assert (mode, n_bytes) == ("600", "64")
    assert not list(Path(slurm["SLURM_SUBMIT_DIR"]).glob(".ray-token*"))
    before, _, command = started.removeprefix("ray symmetric-run ").partition(" -- ")
    # Ray's own checks of the options
    left = symmetric_run.curate_and_validate_ray_start_args(shlex.split(before))
    assert left == ["--num-cpus=32", "--num-gpus=4", "--metrics-export-port=8080"]
    parameters = parse(shlex.split(command))
    assert (str(parameters["config"]), parameters["address"]) == ("audit.yaml", "n1:24711")
    assert parameters["take_over"]
    assert parameters["overrides"] == ["output.path=/shared/runs/audit"]


def test_the_slurm_script_stops_the_run_and_is_queued_again(slurm: dict[str, str]) -> None:
    script = subprocess.Popen(["bash", CLUSTERS / "slurm.sbatch"], env=slurm)
    try:
        deadline = time.monotonic() + 60
        while not Path(slurm["LIVE"]).exists() and time.monotonic() < deadline:
            assert script.poll() is None
            time.sleep(0.02)
        script.send_signal(signal.SIGUSR1)
        assert script.wait(60) == 130
    finally:
        script.kill()
    *_, stopped, queued = called(slurm)
    assert stopped == "xpipe stop /shared/runs/audit"
    assert queued == "scontrol requeue 4711"
    assert parse(shlex.split(stopped))


# all of them


def test_versions_are_one_and_allowed_by_the_project() -> None:
    texts = "\n".join(path.read_text() for path in ALL)
    of_ray = set(re.findall(r"(?:ray:|ray\[default\]==|rayVersion: \")(\d+\.\d+\.\d+)", texts))
    assert of_ray == {re.search(r"Ray's version \((.*?)\)", texts)[1]}  # type: ignore[index]
    version = tuple(map(int, of_ray.pop().split(".")))
    # authentication by token came with 2.52
    assert version >= (2, 52)
    (floor,) = [each for each in PROJECT["dependencies"] if each.startswith("ray>=")]
    assert version >= tuple(map(int, floor.removeprefix("ray>=").split(".")))
    pair = re.search(r"^TORCH\s*:= (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert pair is not None
    assert set(re.findall(r"torch==\S+ torchvision==\S+", texts)) == {pair[1]}
    images = re.findall(r"registry\.example\.com/xpipe:(\S+)", texts)
    assert set(images) == {PROJECT["version"]} == {importlib.metadata.version("xpipe-xai")}
    assert "-py311" in texts
    assert PROJECT["requires-python"] == ">=3.11"


def test_extras_that_are_installed_exist() -> None:
    for path in ALL:
        for extras in re.findall(r"xpipe_xai-\*\.whl\)\[(.*?)\]", path.read_text()):
            assert {"cluster"} < set(extras.split(",")) <= PROJECT["optional-dependencies"].keys()


def test_no_file_has_a_secret() -> None:
    for path in ALL:
        assert not re.search(r"[0-9a-f]{32}|AKIA[A-Z0-9]{16}|PRIVATE KEY", path.read_text()), path


def test_the_readme_has_every_file_and_no_other() -> None:
    named = set(re.findall(r"^\| `([^`]+)` \|", text_of("README.md"), re.MULTILINE))
    assert named == {path.name for path in ALL} - {"README.md"}
    page = (ROOT / "docs" / "clusters.md").read_text()
    assert all(name in page for name in named)
    for path in ALL:
        for found in re.findall(r"\bku\w+\.yaml|\b\w+\.sbatch", path.read_text()):
            assert (CLUSTERS / found).exists(), (path.name, found)


def test_commands_in_the_heads_of_files_are_right() -> None:
    n_found = 0
    for path in ALL:
        for line in re.findall(r"^#\s+(xpipe .*)$", path.read_text(), re.MULTILINE):
            parse(shlex.split(line.partition("  #")[0]))
            n_found += 1
    assert n_found >= 5


def test_they_are_copied_as_a_whole(tmp_path: Path) -> None:
    from pipeline import templates

    written = templates.copy("clusters", tmp_path / "ours")
    assert written[0].name == "README.md"
    assert {path.name for path in written} == {path.name for path in ALL}
