"""What surrounds the image: compose.yaml, Kubernetes manifests, alert rules and their runbook."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from stream_service.__main__ import main
from tests.support.processes import ROOT

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
MANIFESTS: list[dict[str, Any]] = list(
    yaml.safe_load_all((ROOT / "deploy" / "kubernetes.yaml").read_text())
)
ALERTS = ROOT / "deploy" / "alerts.yml"


def known_variables(capsys: pytest.CaptureFixture[str]) -> set[str]:
    """The environment variables that `--help` names."""
    with pytest.raises(SystemExit):
        main(["--help"])
    return set(re.findall(r"^  ([A-Z][A-Z_]+)\b", capsys.readouterr().out, re.MULTILINE))


def test_compose_publishes_nothing_beyond_this_machine() -> None:
    ports = [port for service in COMPOSE["services"].values() for port in service.get("ports", ())]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_every_file_that_compose_mounts_is_there() -> None:
    mounts = [
        volume.partition(":")[0]
        for service in COMPOSE["services"].values()
        for volume in service.get("volumes", ())
        if volume.startswith("./")
    ]
    assert mounts
    assert [mount for mount in mounts if not (ROOT / mount).exists()] == []


def test_compose_and_kubernetes_set_only_what_the_service_reads(
    capsys: pytest.CaptureFixture[str],
) -> None:
    deployment = next(one for one in MANIFESTS if one["kind"] == "Deployment")
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    named = {one["name"] for one in container["env"]}
    for name in ("stream-service-1", "stream-service-2"):
        named |= set(COMPOSE["services"][name]["environment"])
    assert named <= known_variables(capsys)


@pytest.mark.parametrize(
    "manifest", MANIFESTS, ids=[str(manifest["kind"]) for manifest in MANIFESTS]
)
def test_the_kubernetes_manifests_keep_to_their_schemas(manifest: dict[str, Any]) -> None:
    if manifest["kind"] == "ServiceMonitor":
        # Its schema is the operator's, not Kubernetes' own.
        assert manifest["apiVersion"] == "monitoring.coreos.com/v1"
        return
    kubernetes_validate.validate(manifest, desired_version="1.33", strict=True)


def test_readiness_asks_no_database_and_a_gateway_may_live_in_another_namespace() -> None:
    by_kind = {manifest["kind"]: manifest for manifest in MANIFESTS}
    [container] = by_kind["Deployment"]["spec"]["template"]["spec"]["containers"]
    # All pods unready at once would leave a gateway without any.
    assert container["readinessProbe"]["httpGet"]["path"] == "/health/ready"
    assert container["livenessProbe"]["httpGet"]["path"] == "/health/live"
    [ingress] = by_kind["NetworkPolicy"]["spec"]["ingress"]
    [gateway] = [one for one in ingress["from"] if "stream-service-client" in str(one)]
    assert gateway["namespaceSelector"] == {}


def test_the_manifests_find_one_another_by_their_labels() -> None:
    by_kind = {manifest["kind"]: manifest for manifest in MANIFESTS}
    labels = by_kind["Deployment"]["spec"]["template"]["metadata"]["labels"].items()
    assert by_kind["Service"]["spec"]["selector"].items() <= labels
    for kind in ("PodDisruptionBudget", "ServiceMonitor"):
        assert by_kind[kind]["spec"]["selector"]["matchLabels"].items() <= labels
    assert by_kind["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"].items() <= labels
    target = by_kind["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert target["name"] == by_kind["Deployment"]["metadata"]["name"]


def test_alert_rules_wake_who_they_should_and_nobody_else() -> None:
    samples = Path(__file__).with_name("alerts_test.yml")
    done = subprocess.run(
        ["promtool", "test", "rules", samples], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_has_its_paragraph_in_the_runbook() -> None:
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    alerts = {rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule}
    runbook = (ROOT / "docs" / "operations.md").read_text()
    assert set(re.findall(r"^### (\w+)$", runbook, re.MULTILINE)) == alerts


def test_prometheus_accepts_its_configuration() -> None:
    path = ROOT / "deploy" / "compose" / "prometheus.yml"
    done = subprocess.run(
        ["promtool", "check", "config", "--syntax-only", path],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
