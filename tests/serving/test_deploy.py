"""The Dockerfile, the compose file and the KubeRay manifest name what there is."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from compose_spec import PyCompose

from joyimage import __version__
from joyimage.cli.commands import serve as serve_module
from joyimage.cli.commands.serve import serve
from joyimage.cli.main import app, main
from joyimage.cli.options import SizedModelOptions
from joyimage.serving import logs
from joyimage.serving.settings import ServerSettings

ROOT = Path(__file__).parents[2]
NAMES = {*inspect.signature(serve).parameters, *(field.name for field in fields(SizedModelOptions))}
FLAGS = {f"--{name.replace('_', '-')}" for name in NAMES - {"options"}}


def check_flags(arguments: list[str]) -> None:
    used = [argument for argument in arguments if argument.startswith("--")]
    assert used
    assert set(used) <= FLAGS, set(used) - FLAGS


def instructions() -> dict[str, list[str]]:
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        name, _, rest = line.partition(" ")
        if name.isupper():
            found.setdefault(name, []).append(rest.strip())
    return found


def test_dockerfile_when_read_then_it_starts_the_server_as_no_one_special() -> None:
    found = instructions()
    command = json.loads(found["ENTRYPOINT"][0])

    assert command[:2] == ["joyimage", "serve"]
    assert app["serve"]
    check_flags([*command, *json.loads(found["CMD"][0])])
    assert found["USER"] == ["10001"]
    assert "--uid 10001 joyimage" in found["RUN"][0]
    for line in found["ENV"]:
        name = line.partition("=")[0]
        assert name.removeprefix("JOYIMAGE_").lower() in ServerSettings.model_fields
    for line in found["COPY"]:
        assert all((ROOT / name).exists() for name in line.split()[:-1])
    extras = re.findall(r"\.\[(\w+)\]", found["RUN"][-1])
    assert extras == ["ray"]
    assert 'ray = ["joyimage[serve]"' in (ROOT / "pyproject.toml").read_text()


def lint_dockerfile(text: str) -> list[str]:
    """Return the rules of hadolint that a Dockerfile breaks."""
    program = Path(sys.executable).with_name("hadolint")
    run = subprocess.run(
        [program, "--format", "json", "-"], input=text, capture_output=True, text=True, check=False
    )
    return [problem["code"] for problem in json.loads(run.stdout)]


def test_dockerfile_when_linted_then_no_rule_is_broken() -> None:
    text = (ROOT / "Dockerfile").read_text()

    assert lint_dockerfile(text) == []
    assert lint_dockerfile(text.replace("--no-cache-dir ", "")) == ["DL3042"]


def lint_compose(text: str) -> set[str]:
    """Check a compose file against the specification, and return its services."""
    compose = PyCompose.from_yaml(text)
    compose.validate()  # that names it uses are defined
    return set(compose.service_names())


def test_compose_file_when_linted_then_as_the_compose_specification_says() -> None:
    text = (ROOT / "compose.yaml").read_text()

    assert lint_compose(text) == {"database", "server"}
    for good, bad in (
        ("healthcheck:", "healthchek:"),
        ("stop_grace_period: 60s", "stop_grace_period: soon"),
        ("condition: service_healthy", "condition: service_fine"),
        ("      - keys\n", "      - keyz\n"),
    ):
        with pytest.raises(ValueError, match=r"services\.|keyz"):
            lint_compose(text.replace(good, bad))


def lint_manifest(parts: list[dict[str, Any]]) -> None:
    """Check a KubeRay manifest: its own types against KubeRay's schema, all others against Kubernetes'."""
    schema = json.loads((Path(__file__).parent / "golden" / "rayjob.json").read_text())
    for part in parts:
        if part["kind"] != "RayJob":
            kubernetes_validate.validate(part, "1.31", strict=True)
            continue
        jsonschema.validate(part, schema)
        cluster = part["spec"]["rayClusterSpec"]
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {}, "template": group["template"]}
            kubernetes_validate.validate(pod, "1.31", strict=True)


def test_kuberay_manifest_when_linted_then_as_kubernetes_and_kuberay_say() -> None:
    text = (ROOT / "deploy" / "kuberay.yaml").read_text()

    lint_manifest(list(yaml.safe_load_all(text)))
    for good, bad in (
        ("shutdownAfterJobFinishes: false", "shutDownAfterJobFinishes: false"),
        ("backoffLimit: 1000", "backoffLimit: ten"),
        ("minReplicas: 1", "minReplica: 1"),
        ("volumeMounts:", "volumeMount:"),
        ("containerPort: 8600", "containerPort: http"),
        ("accessModes:", "accessMode:"),
        ("    - port: 8600\n", "    - prt: 8600\n"),
    ):
        assert good in text
        with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
            lint_manifest(list(yaml.safe_load_all(text.replace(good, bad))))


def test_compose_file_when_read_then_flags_settings_secrets_and_volumes_exist() -> None:
    compose: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
    server = compose["services"]["server"]

    check_flags(server["command"])
    for name in server["environment"]:
        assert name.removeprefix("JOYIMAGE_").lower() in ServerSettings.model_fields
    assert set(server["depends_on"]) <= set(compose["services"])
    for service in compose["services"].values():
        assert set(service.get("secrets", ())) <= set(compose["secrets"])
        assert {volume.partition(":")[0] for volume in service["volumes"]} <= set(compose["volumes"])
    assert all(port.startswith("127.0.0.1:") for port in server["ports"])
    assert server["image"] == "joyimage"


def test_kuberay_manifest_when_read_then_images_commands_and_names_fit() -> None:
    parts: list[dict[str, Any]] = list(yaml.safe_load_all((ROOT / "deploy" / "kuberay.yaml").read_text()))
    by_kind = {part["kind"]: part for part in parts}
    job = by_kind["RayJob"]["spec"]
    command = job["entrypoint"].split()
    head = job["rayClusterSpec"]["headGroupSpec"]["template"]
    (server,) = head["spec"]["containers"]
    (workers,) = job["rayClusterSpec"]["workerGroupSpecs"]

    assert command[:2] == ["joyimage", "serve"]
    check_flags(command)
    assert int(command[command.index("--replicas") + 1]) == workers["maxReplicas"]
    port = int(command[command.index("--port") + 1])
    assert port == server["ports"][0]["containerPort"] == server["readinessProbe"]["httpGet"]["port"]
    assert by_kind["Service"]["spec"]["ports"][0]["targetPort"] == port
    (worker,) = workers["template"]["spec"]["containers"]
    assert {server["image"], worker["image"]} == {f"joyimage:{__version__}"}
    mounts = {mount["name"]: mount["mountPath"] for mount in server["volumeMounts"]}
    assert set(mounts) == {volume["name"] for volume in head["spec"]["volumes"]}
    assert mounts["data"] == command[command.index("--data-dir") + 1]
    assert command[command.index("--api-keys-file") + 1].startswith(mounts["keys"])
    claim = head["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"]
    assert claim in {one["metadata"]["name"] for one in parts if one["kind"] == "PersistentVolumeClaim"}
    assert by_kind["Service"]["spec"]["selector"].items() <= head["metadata"]["labels"].items()


def test_kuberay_manifest_when_read_then_probes_limits_and_networks_keep_strangers_and_hangs_out() -> None:
    parts: list[dict[str, Any]] = list(yaml.safe_load_all((ROOT / "deploy" / "kuberay.yaml").read_text()))
    cluster = next(part for part in parts if part["kind"] == "RayJob")["spec"]["rayClusterSpec"]
    templates = [cluster["headGroupSpec"]["template"], cluster["workerGroupSpecs"][0]["template"]]
    server = templates[0]["spec"]["containers"][0]
    policies = [part["spec"] for part in parts if part["kind"] == "NetworkPolicy"]
    claims = {part["metadata"]["name"] for part in parts if part["kind"] == "PersistentVolumeClaim"}

    for template in templates:
        pod, (container,) = template["spec"], template["spec"]["containers"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert {"name": "HF_HOME", "value": mounts["models"]} in container["env"]
        for volume in pod["volumes"]:
            assert "secret" in volume or volume["persistentVolumeClaim"]["claimName"] in claims
        selected = policies[0]["podSelector"]["matchLabels"].items()
        assert selected <= template["metadata"]["labels"].items()
    assert {server[name]["httpGet"]["path"] for name in ("livenessProbe", "startupProbe")} == {"/livez"}
    assert server["readinessProbe"]["httpGet"]["path"] == "/readyz"
    # Whatever may reach a port beside the cluster's own pods: the operator Ray's dashboard, all others the server.
    foreign = [rule for policy in policies for rule in policy["ingress"] if "podSelector" not in str(rule)]
    assert [[port["port"] for port in rule["ports"]] for rule in foreign] == [[8265], [8600]]
    assert all(policy["policyTypes"] == ["Ingress"] for policy in policies)
    pinned = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
    )
    assert cluster["rayVersion"] == pinned["ray"]


def test_containers_when_stopped_then_there_is_time_for_running_jobs_and_for_what_follows() -> None:
    compose: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
    service = compose["services"]["server"]
    parts: list[dict[str, Any]] = list(yaml.safe_load_all((ROOT / "deploy" / "kuberay.yaml").read_text()))
    head = parts[0]["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    environment = dict(line.split("=") for line in instructions()["ENV"])
    pods = {one["name"]: one["value"] for one in head["containers"][0]["env"]}

    times = [
        (10, environment["JOYIMAGE_SHUTDOWN_GRACE_S"]),  # what `docker stop` gives
        (
            int(service["stop_grace_period"].removesuffix("s")),
            service["environment"]["JOYIMAGE_SHUTDOWN_GRACE_S"],
        ),
        (head["terminationGracePeriodSeconds"], pods["JOYIMAGE_SHUTDOWN_GRACE_S"]),
    ]

    assert all(float(grace) + 5 <= most for most, grace in times)
    assert "/livez" in " ".join(instructions()["HEALTHCHECK"])


def test_settings_when_documented_then_every_one_with_its_default() -> None:
    text = (ROOT / "docs" / "serving.md").read_text()

    for name, field in ServerSettings.model_fields.items():
        rows = [line for line in text.splitlines() if line.startswith(f"| `{name}` |")]
        assert len(rows) == 1, name
        default = field.get_default(call_default_factory=True)
        if isinstance(default, bool) or default is None or name == "data_dir":
            continue
        if isinstance(default, (int, float)):
            assert f"| {default:,} |" in rows[0], (name, default)
        elif isinstance(default, str):
            assert f"`{default}`" in rows[0], (name, default)


def test_serve_when_the_user_has_no_home_then_a_folder_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def has_none() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", has_none)
    monkeypatch.setattr(serve_module, "run_server", lambda *_, **__: None)

    assert main(["serve", "--model", "tiny"]) == 2
    assert "`--data-dir` is missing, and this user has no home folder" in capsys.readouterr().err
    assert main(["serve", "--model", "tiny", "--data-dir", str(tmp_path)]) == 0


@pytest.mark.parametrize("flag", sorted(FLAGS))
def test_flag_when_given_then_it_is_a_setting_or_the_commands_own(flag: str) -> None:
    name = flag.removeprefix("--").replace("-", "_")

    assert name in ServerSettings.model_fields or name in {"lora", "ray", "ray_address", "verbose"}


def test_serve_when_given_lists_and_addresses_then_settings_hold_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[ServerSettings] = []
    monkeypatch.setattr(serve_module, "run_server", lambda settings, **_: served.append(settings))
    monkeypatch.setattr(logs, "configure_logging", lambda **options: logged.append(options))
    logged: list[dict[str, bool]] = []
    options = {
        "--model-aliases": "gpt-image-1,dall-e-3",
        "--allowed-hosts": "images.example",
        "--cors-origins": "https://a.example, https://b.example",
        "--trusted-proxies": "10.0.0.0/8",
        "--public-url": "https://images.example/api",
    }

    code = main(
        ["serve", "--model", "tiny", "--data-dir", str(tmp_path), "--log-json", *sum(options.items(), ())]
    )

    assert code == 0
    (settings,) = served
    assert settings.model_aliases == ("gpt-image-1", "dall-e-3")
    assert settings.host_names == ("images.example",)
    assert settings.cors_origins == ("https://a.example", "https://b.example")
    assert settings.trusted_proxies == ("10.0.0.0/8",)
    assert settings.public_url == "https://images.example/api"
    assert logged == [{"verbose": False, "as_json": True}]


def test_serve_when_a_proxy_is_no_address_then_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["serve", "--model", "tiny", "--data-dir", str(tmp_path), "--trusted-proxies", "my-proxy"])

    assert code == 2
    assert "`--trusted-proxies` is 'my-proxy'" in capsys.readouterr().err
