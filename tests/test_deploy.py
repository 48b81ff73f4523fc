"""What lies in examples/deploy is read as Docker and Kubernetes would, and held against the server's own keys."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_automl_vision.api import settings
from lightning_automl_vision.arguments import rewrite
from lightning_automl_vision.composed import Settings
from lightning_automl_vision.jobs.serve import Config, ServeConfig

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "examples" / "deploy"
KUBERNETES = DEPLOY / "kubernetes"


def documents(path: Path) -> list[Any]:
    return list(yaml.safe_load_all(path.read_text()))


def manifest(name: str) -> Any:
    (document,) = documents(KUBERNETES / f"{name}.yaml")
    return document


def instructions() -> list[tuple[str, str]]:
    """Of the Dockerfile, with continued lines joined and comments away."""
    text = re.sub(r"^\s*#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = [line.strip() for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]


def words(instruction: str) -> list[str]:
    (found,) = [rest for name, rest in instructions() if name == instruction]
    parsed = json.loads(found)
    assert isinstance(parsed, list)
    return parsed


def served(arguments: list[str]) -> ServeConfig:
    """What the program makes of a command line, which begins with the image's own words."""
    program, *rest = [*words("ENTRYPOINT"), *arguments]
    assert program == "lav"
    job, *keys = rewrite(rest)
    assert job == "job=serve"
    composed = settings_of(keys)
    assert isinstance(composed.job, Config)
    assert composed.checkpoint == "/model"
    return composed.job.serve


def settings_of(keys: list[str]) -> Settings:
    given = {name: yaml.safe_load(value) for name, _, value in (key.partition("=") for key in keys)}
    checkpoint = given.pop("checkpoint")
    serve = {name.removeprefix("job.serve."): value for name, value in given.items()}
    return settings(checkpoint=checkpoint, job={"name": "serve", "serve": serve})


def container() -> Any:
    (one,) = manifest("deployment")["spec"]["template"]["spec"]["containers"]
    return one


@pytest.mark.parametrize("path", sorted(DEPLOY.rglob("*.yaml")), ids=lambda path: path.name)
def test_every_manifest_is_yaml_with_no_key_twice(path: Path) -> None:
    class Strict(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            names = [key.value for key, _ in node.value]
            assert len(set(names)) == len(names), f"{path}: {names}"
            return super().construct_mapping(node, deep)

    assert list(yaml.load_all(path.read_text(), Strict))


def test_the_program_accepts_every_key_that_is_used() -> None:
    compose = documents(DEPLOY / "docker-compose.yaml")[0]["services"]["server"]
    for arguments in (words("CMD"), compose["command"], container()["args"]):
        used = served(arguments)
        assert used.auth_mode == "key"
        assert (used.host, used.port) == ("0.0.0.0", 8000)


def test_the_image_runs_without_rights_and_is_looked_after() -> None:
    order = [name for name, _ in instructions()]
    assert len([name for name in order if name == "HEALTHCHECK"]) == 1
    users = [rest for name, rest in instructions() if name == "USER"]
    assert users == ["10001:10001"]
    assert order.index("USER") < order.index("ENTRYPOINT")
    bases = [rest.split()[0] for name, rest in instructions() if name == "FROM"]
    stages = [rest.split()[-1] for name, rest in instructions() if name == "FROM"]
    assert all(base.endswith("-slim") or base in stages for base in bases)
    assert bases[-1] == "server", "what is built when no target is named"
    port = str(ServeConfig.port)
    assert [rest for name, rest in instructions() if name == "EXPOSE"] == [port]
    (check,) = [rest for name, rest in instructions() if name == "HEALTHCHECK"]
    assert f"http://127.0.0.1:{port}/health/ready" in check
    assert ("STOPSIGNAL", "SIGTERM") in instructions()


def test_the_health_check_is_a_program() -> None:
    (check,) = [rest for name, rest in instructions() if name == "HEALTHCHECK"]
    python, option, program = json.loads(check[check.index("[") :])
    assert (python, option) == ("python", "-c")
    compile(program, "HEALTHCHECK", "exec")


def test_the_build_has_all_that_is_installed_and_no_more() -> None:
    lines = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    kept = [line[1:] for line in lines if line.startswith("!")]
    assert lines[1] == "*"
    assert all((ROOT / name).exists() for name in kept)
    included = re.search(r"only-include = \[(.*?)\]", (ROOT / "pyproject.toml").read_text())
    assert included is not None
    assert {name.strip(' "') for name in included[1].split(",")} <= {*kept}
    copied = [rest for name, rest in instructions() if name == "COPY"]
    assert copied == [". .", "--from=build /opt/lav /opt/lav", "--from=model . /model"]
    (extras,) = re.findall(r"\.\[([\w,]+)\]", " ".join(rest for name, rest in instructions() if name == "RUN"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {"serve", "export"} == {*extras.split(",")} <= project["optional-dependencies"].keys()


def test_probes_have_the_documented_fields_and_ask_what_the_server_answers() -> None:
    ports = {port["name"]: port["containerPort"] for port in container()["ports"]}
    for name, path in (("livenessProbe", "/health/live"), ("readinessProbe", "/health/ready")):
        probe = container()[name]
        fields = ("failureThreshold", "successThreshold", "timeoutSeconds", "periodSeconds", "initialDelaySeconds")
        assert {*fields, "httpGet"} == set(probe)
        assert probe["httpGet"]["path"] == path
        assert ports[probe["httpGet"]["port"]] == ServeConfig.port
    from lightning_automl_vision.serving import application

    routes = Path(application.__file__).read_text()
    assert '"/health/live"' in routes
    assert '"/health/ready"' in routes


def test_nothing_is_sent_to_a_server_that_ends_and_it_has_the_time_it_needs() -> None:
    used, probe = served(container()["args"]), container()["readinessProbe"]
    noticed = probe["periodSeconds"] * probe["failureThreshold"] + probe["timeoutSeconds"]
    assert used.drain_wait_ms / 1000 > noticed
    last_words = 5
    grace = manifest("deployment")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace > (used.drain_wait_ms + used.request_timeout_ms) / 1000 + last_words
    compose = documents(DEPLOY / "docker-compose.yaml")[0]["services"]["server"]
    assert int(compose["stop_grace_period"].rstrip("s")) > ServeConfig.request_timeout_ms / 1000 + last_words


def test_the_networks_threads_are_the_cores_it_may_use() -> None:
    resources = container()["resources"]
    assert served(container()["args"]).threads == int(resources["requests"]["cpu"]) == int(resources["limits"]["cpu"])
    compose = documents(DEPLOY / "docker-compose.yaml")[0]["services"]["server"]
    assert served(compose["command"]).threads == int(compose["deploy"]["resources"]["limits"]["cpus"])
    assert {"memory"} <= set(resources["requests"]) & set(resources["limits"])


def test_the_key_is_where_the_server_looks_for_it() -> None:
    pod = manifest("deployment")["spec"]["template"]["spec"]
    mounts = {mount["name"]: mount for mount in container()["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert set(mounts) == set(volumes)
    secret = manifest("secret")
    assert volumes["key"]["secret"]["secretName"] == secret["metadata"]["name"]
    (name,) = secret["stringData"]
    assert served(container()["args"]).key_file == f"{mounts['key']['mountPath']}/{name}"
    compose = documents(DEPLOY / "docker-compose.yaml")[0]
    (name,) = compose["services"]["server"]["secrets"]
    assert name in compose["secrets"]
    assert served(compose["services"]["server"]["command"]).key_file == f"/run/secrets/{name}"


def test_everything_means_the_same_pods() -> None:
    deployment, service, scaler = (manifest(name) for name in ("deployment", "service", "autoscaler"))
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert service["spec"]["selector"].items() <= labels.items()
    assert manifest("disruption")["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert scaler["spec"]["scaleTargetRef"] == {
        "apiVersion": deployment["apiVersion"],
        "kind": deployment["kind"],
        "name": deployment["metadata"]["name"],
    }
    assert "replicas" not in deployment["spec"], "the autoscaler's business"
    assert 1 < scaler["spec"]["minReplicas"] < scaler["spec"]["maxReplicas"]
    assert scaler["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"] < 100
    (port,) = service["spec"]["ports"]
    assert port["targetPort"] in {port["name"] for port in container()["ports"]}


def test_pods_may_do_nothing_but_serve() -> None:
    pod, own = manifest("deployment")["spec"]["template"]["spec"], container()["securityContext"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}" == "10001:10001"
    assert own == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["automountServiceAccountToken"] is False
    server = documents(DEPLOY / "docker-compose.yaml")[0]["services"]["server"]
    assert server["read_only"]
    assert server["cap_drop"] == ["ALL"]


def test_documented_paths_do_not_depend_on_where_the_compose_file_lies() -> None:
    for name in ("README.md", "docker-compose.yaml"):
        commands = [line for line in (DEPLOY / name).read_text().splitlines() if "docker compose -f" in line]
        assert commands
        assert all('MODEL="$PWD/' in line and 'KEY_FILE="$PWD/key"' in line for line in commands)


def test_kustomize_takes_what_there_is() -> None:
    kustomization = manifest("kustomization")
    assert all((KUBERNETES / name).exists() for name in kustomization["resources"])
    (image,) = kustomization["images"]
    assert container()["image"].rpartition(":")[0] == image["name"]
    assert {"newName", "newTag"} <= image.keys()
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    command = ["kubectl", "kustomize", str(KUBERNETES)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    kinds = [document["kind"] for document in yaml.safe_load_all(process.stdout)]
    assert sorted(kinds) == ["Deployment", "HorizontalPodAutoscaler", "PodDisruptionBudget", "Service"]
