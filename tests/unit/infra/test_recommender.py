"""The recommender's own image and its Kubernetes manifests, read as files: they must name what the service has."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import yaml

from reclm.serving.access_control import METRICS_PATH, OPEN_PATHS
from reclm.serving.process import GRACE_SECONDS
from reclm.settings.loading import known_keys
from reclm.storage.version import VERSION

ROOT = Path(__file__).resolve().parents[3]
IMAGE = ROOT / "infra" / "recommender"
CONTAINERFILE = (IMAGE / "Containerfile").read_text()
MANIFESTS: dict[str, dict[str, Any]] = {
    found["kind"]: found for found in map(yaml.safe_load, (f.read_text() for f in ROOT.glob("infra/kubernetes/*.yaml")))
}
POD: dict[str, Any] = MANIFESTS["Deployment"]["spec"]["template"]["spec"]
CONTAINER: dict[str, Any] = POD["containers"][0]


class TestImage:
    def test_it_copies_what_exists_and_what_the_ignore_file_lets_through(self) -> None:
        ignored = (IMAGE / "Containerfile.dockerignore").read_text().splitlines()
        let_through = [line[1:] for line in ignored if line.startswith("!")]
        sources = [
            word for line in re.findall(r"^COPY (.+)$", CONTAINERFILE, re.MULTILINE) for word in line.split()[:-1]
        ]
        assert {"reclm", "feature_repo"} <= set(sources)
        for source in sources:
            assert (ROOT / source).exists(), source
            assert any(source == one or source.startswith(f"{one}/") for one in let_through), source

    def test_its_packages_are_locked_and_are_packages_of_the_project(self) -> None:
        wanted = re.findall(r"^([a-z][\w-]*)", (IMAGE / "requirements.txt").read_text(), flags=re.MULTILINE)
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
        assert set(wanted) <= {re.split(r"[\[><=;]", one)[0] for one in project} | {"redis"}
        assert len(wanted) < len(project)
        assert "-c constraints.txt --override overrides.txt" in CONTAINERFILE

    def test_it_does_not_run_as_root(self) -> None:
        assert re.findall(r"^USER (\S+)", CONTAINERFILE, flags=re.MULTILINE)[-1] == "reclm"
        assert f"--uid {POD['securityContext']['runAsUser']} " in CONTAINERFILE


class TestKubernetes:
    def test_the_parts_name_each_other(self) -> None:
        assert MANIFESTS.keys() == {
            "Deployment", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget", "ConfigMap",
        }  # fmt: skip
        deployment = MANIFESTS["Deployment"]
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        assert deployment["spec"]["selector"]["matchLabels"] == labels
        assert MANIFESTS["Service"]["spec"]["selector"] == labels
        assert MANIFESTS["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
        assert MANIFESTS["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
        volumes = {volume["name"]: volume for volume in POD["volumes"]}
        assert volumes.keys() == {mount["name"] for mount in CONTAINER["volumeMounts"]}
        assert volumes["settings"]["configMap"]["name"] == MANIFESTS["ConfigMap"]["metadata"]["name"]

    def test_probes_ask_for_paths_that_need_no_key_on_the_port_that_is_served(self) -> None:
        probes = [CONTAINER[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")]
        assert [probe["path"] for probe in probes] == ["/health/live", "/health/live", "/health/ready"]
        assert {probe["path"] for probe in probes} == set(OPEN_PATHS)
        (port,) = CONTAINER["ports"]
        assert {probe["port"] for probe in probes} == {port["name"]}
        assert MANIFESTS["Service"]["spec"]["ports"][0]["targetPort"] == port["name"]
        command = CONTAINER["command"]
        assert command[command.index("--port") + 1] == str(port["containerPort"])
        annotations = MANIFESTS["Deployment"]["spec"]["template"]["metadata"]["annotations"]
        assert annotations["prometheus.io/path"] == METRICS_PATH
        assert annotations["prometheus.io/port"] == str(port["containerPort"])

    def test_settings_are_settings(self) -> None:
        variables = {one["name"] for one in CONTAINER["env"]} - {"RECLM_WORKSPACE", "RECLM_SETTINGS", "RECLM_ERASURES"}
        keys = {name.removeprefix("RECLM_").lower().replace("__", ".") for name in variables}
        sections = tomllib.loads(MANIFESTS["ConfigMap"]["data"]["reclm.toml"])
        keys |= {f"{section}.{name}" for section, values in sections.items() for name in values}
        assert keys <= set(known_keys())
        assert sections["serve"]["wait"] is True

    def test_secrets_are_not_written_down(self) -> None:
        assert all("value" not in one for one in CONTAINER["env"] if one["name"] == "RECLM_FEAST__REDIS_URL")

    def test_a_pod_has_time_to_answer_what_it_has_accepted(self) -> None:
        before = int(CONTAINER["lifecycle"]["preStop"]["exec"]["command"][1])
        assert POD["terminationGracePeriodSeconds"] >= before + GRACE_SECONDS

    def test_the_image_is_of_this_version(self) -> None:
        assert CONTAINER["image"] == f"reclm-recommender:{VERSION}"
        assert f"-t {CONTAINER['image']} ." in CONTAINERFILE
