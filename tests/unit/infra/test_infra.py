"""The deployment in containers, read as files: nothing is started; the parts must name each other correctly.

`FROM_AIRFLOW` are packets that Airflow 3.3's services sent with this configuration, values replaced.
"""

from __future__ import annotations

import fnmatch
import importlib.util
import json
import re
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from prometheus_client import Counter, Gauge, Histogram

from reclm.settings.loading import known_keys, load

ROOT = Path(__file__).resolve().parents[3]
INFRA = ROOT / "infra"
COMPOSE_TEXT = (INFRA / "compose.yaml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(COMPOSE_TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
EXAMPLE = (INFRA / "env.example").read_text()
CONTAINERFILE = (INFRA / "airflow" / "Containerfile").read_text()
DASHBOARDS: list[dict[str, Any]] = [
    json.loads(file.read_text()) for file in (INFRA / "grafana/dashboards").glob("*.json")
]
ENVIRONMENT = {name for service in SERVICES.values() for name in service.get("environment", {})}
SECRET = re.compile(r"PASSWORD|SECRET|FERNET_KEY|TOKEN")

FROM_AIRFLOW = (
    "airflow.dagrun.duration.success,dag_id=reclm_features,run_type=scheduled:1.0|ms",
    "airflow.dagrun.duration.failed,dag_id=reclm_tuning,run_type=manual:1.0|ms",
    "airflow.task.duration,dag_id=reclm_features,task_id=ingest:1.0|ms",
    "airflow.ti.finish,dag_id=reclm_features,task_id=ingest,state=skipped:1|c",
    "airflow.ti_failures,dag_id=reclm_tuning,task_id=tune:1|c",
    "airflow.pool.open_slots,pool_name=warehouse:1|g",
    "airflow.pool.running_slots,pool_name=warehouse:1|g",
    "airflow.pool.queued_slots,pool_name=accelerator:1|g",
    "airflow.scheduler_heartbeat:1|c",
    "airflow.dag_processor_heartbeat:1|c",
    "airflow.triggerer_heartbeat:1|c",
    "airflow.dag_processing.import_errors:0|g",
)
DROPPED = ("airflow.scheduler.dag_bag.cache_hit:1|c", "airflow.dagrun.dependency-check,dag_id=reclm_tuning:1.0|ms")


def variables(text: str) -> dict[str, str]:
    """{name: what follows it} of every `${NAME…}` that Compose fills in."""
    return dict(re.findall(r"(?<!\$)\$\{(\w+)([^}]*)\}", text))


def program(path: str) -> ModuleType:
    """A file of `infra/`, which is no package."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, INFRA / path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def prometheus_name(packet: str) -> tuple[str, set[str]] | None:
    """Return metric and labels that the mapping makes of a StatsD packet; None when it is dropped.

    Globs are read as the exporter reads them: `*` is one part.
    """
    name, *tags = packet.rpartition(":")[0].split(",")
    labels = {tag.partition("=")[0] for tag in tags}
    for rule in yaml.safe_load((INFRA / "statsd-mapping.yaml").read_text())["mappings"]:
        pattern = rule["match"]
        if rule.get("match_type") != "regex":
            pattern = "^" + re.escape(pattern).replace(r"\*", "([^.]*)") + "$"
        if re.search(pattern, name):
            return None if rule.get("action") == "drop" else (rule["name"], labels | set(rule.get("labels", {})))
    return None


@cache
def metrics() -> dict[str, set[str]]:
    """{name as it can be queried: labels} of what Airflow was seen to send, and of what the mapping names besides."""
    found: dict[str, set[str]] = {}
    for packet in FROM_AIRFLOW:
        made = prometheus_name(packet)
        assert made, packet
        for suffix in ("_sum", "_count") if packet.endswith("|ms") else ("",):
            found.setdefault(made[0] + suffix, set()).update(made[1])
    return found


def targets() -> list[tuple[str, dict[str, Any]]]:
    return [
        (panel["title"], target) for board in DASHBOARDS for panel in board["panels"] for target in panel["targets"]
    ]


def alerts() -> list[tuple[str, dict[str, Any]]]:
    """Return (name, rule) of every alert."""
    groups = yaml.safe_load((INFRA / "alerts.yaml").read_text())["groups"]
    return [(rule["alert"], rule) for group in groups for rule in group["rules"]]


class TestCompose:
    def test_every_variable_is_explained_in_the_example(self) -> None:
        named = variables(COMPOSE_TEXT).keys() | {
            name for service in SERVICES.values() for name, value in service.get("environment", {}).items() if not value
        }
        listed = re.findall(r"^#?(\w+)=", EXAMPLE, flags=re.MULTILINE)
        assert named == set(listed)
        assert len(listed) == len(set(listed))
        for line, before in zip(EXAMPLE.splitlines()[1:], EXAMPLE.splitlines(), strict=False):
            assert not re.match(r"#?\w+=", line) or before.startswith("#") or "=" in before, f"{line} has no comment"

    def test_a_missing_secret_stops_it_and_none_is_written_down(self) -> None:
        secrets = {name: rest for name, rest in variables(COMPOSE_TEXT).items() if SECRET.search(name)}
        assert len(secrets) == 8
        assert {rest[:2] for rest in secrets.values()} == {":?"}
        for service, about in SERVICES.items():
            for name, value in about.get("environment", {}).items():
                assert not SECRET.search(name) or not value or "${" in value or "_FILE" in name, (service, name)

    def test_every_image_has_a_version(self) -> None:
        images = [service["image"] for service in SERVICES.values()]
        images += re.findall(r"^FROM (\S+)", CONTAINERFILE, flags=re.MULTILINE)
        for image in images:
            assert re.search(r":v?\d+\.\d+(\.\d+)?[\w.-]*$", image), image

    def test_everything_waits_restarts_and_tells_its_health(self) -> None:
        for name, service in SERVICES.items():
            assert service["restart"] == ("no" if name == "init" else "unless-stopped"), name
            assert ("healthcheck" in service) != (name == "init"), name
            for other, how in service.get("depends_on", {}).items():
                expected = "service_completed_successfully" if other == "init" else "service_healthy"
                assert how["condition"] == expected, (name, other)
                assert other in SERVICES
        assert {"init", "redis"} <= SERVICES["scheduler"]["depends_on"].keys()

    def test_only_the_three_pages_are_bound_and_only_on_loopback(self) -> None:
        ports = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
        assert ports.keys() == {"api-server", "grafana", "recommender"}
        assert all(port.startswith("127.0.0.1:") for several in ports.values() for port in several)
        assert not any("network_mode" in service or "privileged" in service for service in SERVICES.values())

    def test_what_is_mounted_exists(self) -> None:
        for name, service in SERVICES.items():
            for mount in service.get("volumes", []):
                source, target = mount.split(":")[:2]
                assert target.startswith("/")
                assert (INFRA / source).exists() if source.startswith(".") else source in COMPOSE["volumes"], (
                    name,
                    mount,
                )
                assert not source.startswith(".") or mount.endswith(":ro"), f"{name} may write {source}"

    def test_all_that_runs_tasks_shares_one_workspace(self) -> None:
        for name in ("scheduler", "dag-processor", "triggerer"):
            assert "workspace:/workspace" in SERVICES[name]["volumes"]
            assert SERVICES[name]["environment"]["RECLM_WORKSPACE"] == "/workspace"

    def test_all_that_writes_to_the_workspace_knows_who_was_erased(self) -> None:
        for name, service in SERVICES.items():
            mounts = [mount.removesuffix(":ro") for mount in service.get("volumes", [])]
            if "workspace:/workspace" in service.get("volumes", []):
                assert "erasures:/erasures" in mounts, name
                assert service["environment"]["RECLM_ERASURES"] == "/erasures"

    def test_the_gpu_is_asked_for_by_name(self) -> None:
        assert {name for name, service in SERVICES.items() if "profiles" in service} == {"vllm"}

    def test_programs_of_the_image_exist(self) -> None:
        for service in SERVICES.values():
            words = [*service.get("command", []), *service.get("healthcheck", {}).get("test", [])]
            for word in words:
                if word.startswith("/opt/reclm/"):
                    assert (ROOT / word.removeprefix("/opt/reclm/")).exists()


class TestSettings:
    def test_reclm_variables_are_settings(self) -> None:
        given = {name: "1" for name in ENVIRONMENT if name.startswith("RECLM_")}
        keys = {name.removeprefix("RECLM_").lower().replace("__", ".") for name in given} - {"settings", "erasures"}
        assert keys <= set(known_keys())
        assert len(keys) == 5

    def test_the_file_loads_and_speaks_to_redis(self) -> None:
        loaded = load(file=INFRA / "reclm.toml", environment={"RECLM_FEAST__REDIS_URL": "redis:6379"})
        assert (loaded.feast.online_store, loaded.feast.redis_url) == ("redis", "redis:6379")

    def test_what_is_commented_out_in_it_loads_too(self, tmp_path: Path) -> None:
        text = (INFRA / "reclm.toml").read_text()
        whole = re.sub(r"^# (?=\[|\w+ = )", "", text, flags=re.MULTILINE)
        (tmp_path / "reclm.toml").write_text(whole)
        loaded = load(file=tmp_path / "reclm.toml", environment={})
        assert (loaded.profiles.engine, loaded.openai.base_url) == ("openai", "http://vllm:8000/v1")
        assert loaded.schedule.webhook and loaded.schedule.email

    def test_airflow_variables_are_options_of_airflow(self) -> None:
        pytest.importorskip("airflow")
        from airflow.configuration import conf

        options = conf.configuration_description
        names = ENVIRONMENT | set(re.findall(r"AIRFLOW__\w+", CONTAINERFILE))
        asked = [name.removeprefix("AIRFLOW__").lower().split("__") for name in names if name.startswith("AIRFLOW__")]
        assert len(asked) > 15
        assert [key for key in asked if key[1] not in options.get(key[0], {"options": {}})["options"]] == []

    def test_random_secrets_fill_every_empty_name(self) -> None:
        from cryptography.fernet import Fernet

        secrets = dict(
            line.split("=", 1)
            for line in program("make_env.py").with_secrets(EXAMPLE).splitlines()
            if line[:1].isalpha()
        )
        assert all(secrets.values())
        assert len(set(secrets.values())) == len(secrets)
        Fernet(secrets["AIRFLOW_FERNET_KEY"].encode())
        assert all(re.fullmatch(r"[\w=-]+", value) for name, value in secrets.items() if SECRET.search(name))

    def test_the_admin_s_password_is_for_its_owner_alone(self, tmp_path: Path) -> None:
        file = tmp_path / "passwords.json"
        for password in ("first", "second"):
            program("airflow/prepare.py").write_password(file, "admin", password)
        assert json.loads(file.read_text()) == {"admin": "second"}
        assert file.stat().st_mode & 0o777 == 0o600


class TestContainerfile:
    def sources(self) -> list[str]:
        lines = re.findall(r"^COPY (.+)$", CONTAINERFILE, flags=re.MULTILINE)
        return [word for line in lines for word in line.split()[:-1]]

    def test_it_copies_what_exists_and_what_the_ignore_file_lets_through(self) -> None:
        ignored = (INFRA / "airflow" / "Containerfile.dockerignore").read_text().splitlines()
        let_through = [line[1:] for line in ignored if line.startswith("!")]
        assert len(self.sources()) > 8
        for source in self.sources():
            assert (ROOT / source).exists(), source
            assert any(source == one or source.startswith(f"{one}/") for one in let_through), source

    def test_it_carries_all_that_the_package_looks_for_in_the_repository(self) -> None:
        assert {"reclm", "dbt", "feature_repo", "dags"} <= set(self.sources())

    def test_it_installs_by_the_same_lock_and_tool_as_the_makefile(self) -> None:
        version = re.search(r"UV_VERSION := (\S+)", (ROOT / "Makefile").read_text())
        assert version and f"ARG UV_VERSION={version[1]}\n" in CONTAINERFILE
        assert "-c constraints.txt --override overrides.txt" in CONTAINERFILE

    def test_it_does_not_run_as_root(self) -> None:
        assert re.findall(r"^USER (\S+)", CONTAINERFILE, flags=re.MULTILINE)[-1] not in ("root", "0")


class TestMetrics:
    def test_airflow_s_packets_become_labelled_metrics(self) -> None:
        assert metrics()["airflow_dagrun_duration_seconds_sum"] == {"dag_id", "run_type", "state"}
        assert metrics()["airflow_task_failures_total"] == {"dag_id", "task_id"}
        assert metrics()["airflow_pool_open_slots"] == {"pool_name"}

    @pytest.mark.parametrize("packet", DROPPED)
    def test_the_rest_is_dropped(self, packet: str) -> None:
        assert prometheus_name(packet) is None

    def test_airflow_sends_tags_and_no_names_with_variables_in_them(self) -> None:
        environment = SERVICES["scheduler"]["environment"]
        assert environment["AIRFLOW__METRICS__STATSD_INFLUXDB_ENABLED"] == "True"
        assert environment["AIRFLOW__METRICS__LEGACY_NAMES_ON"] == "False"

    def test_every_rule_matches_a_metric_that_airflow_knows(self) -> None:
        airflow = pytest.importorskip("airflow")
        registry = Path(airflow.__file__).parent / "_shared" / "observability" / "metrics" / "metrics_template.yaml"
        known = [f"airflow.{one['name']}" for one in yaml.safe_load(registry.read_text())["metrics"]]
        rules = yaml.safe_load((INFRA / "statsd-mapping.yaml").read_text())["mappings"]
        for rule in rules:
            assert rule.get("action") == "drop" or fnmatch.filter(known, rule["match"]), rule

    def test_prometheus_asks_services_that_exist(self) -> None:
        jobs = yaml.safe_load((INFRA / "prometheus.yml").read_text())["scrape_configs"]
        hosts = {target.split(":")[0] for job in jobs for one in job["static_configs"] for target in one["targets"]}
        assert hosts == {"statsd-exporter", "recommender", "localhost"}

    def test_the_port_is_the_exporter_s(self) -> None:
        port = SERVICES["scheduler"]["environment"]["AIRFLOW__METRICS__STATSD_PORT"]
        assert f"--statsd.listen-udp=:{port}" in SERVICES["statsd-exporter"]["command"]


class TestAlerts:
    def test_watch_what_the_operations_page_promises(self) -> None:
        watched = " ".join(rule["expr"] for _, rule in alerts())
        for metric in ("model_as_of_seconds", "published_at_seconds", "set_apart_share", "health_checks"):
            assert f"reclm_{metric}" in watched
        for part in ('degraded="true"', "histogram_quantile(0.99", "airflow_task_failures_total"):
            assert part in watched

    def test_have_names_of_their_own_and_say_what_to_do(self) -> None:
        names = [name for name, _ in alerts()]
        assert len(names) == len(set(names)) > 10
        for name, rule in alerts():
            assert rule["annotations"].keys() == {"summary", "action"}, name
            assert rule["labels"]["severity"] in ("page", "ticket"), name
            assert rule["expr"].count("(") == rule["expr"].count(")"), name

    def test_name_metrics_that_airflow_sends(self) -> None:
        rules = yaml.safe_load((INFRA / "statsd-mapping.yaml").read_text())["mappings"]
        mapped = {rule["name"] for rule in rules}
        for name, rule in alerts():
            assert set(re.findall(r"airflow_\w+", rule["expr"])) <= mapped, name

    def test_are_where_prometheus_looks(self) -> None:
        (file,) = yaml.safe_load((INFRA / "prometheus.yml").read_text())["rule_files"]
        mounts = dict(mount.split(":")[:2] for mount in SERVICES["prometheus"]["volumes"])
        folder = Path(mounts["./prometheus.yml"]).parent
        assert mounts[f"./{file}"] == str(folder / file)


class TestDashboards:
    def test_queries_name_metrics_and_labels_that_the_mapping_makes(self) -> None:
        rules = yaml.safe_load((INFRA / "statsd-mapping.yaml").read_text())["mappings"]
        unseen = {rule["name"] for rule in rules if rule.get("action") != "drop"}
        asked = 0
        for title, target in targets():
            for name in re.findall(r"airflow_\w+", target.get("expr", "")):
                asked += 1
                assert name in metrics() or name in unseen, (title, name)
            for labels in re.findall(r"by \(([^)]*)\) \(\w*\(?(airflow_\w+)", target.get("expr", "")):
                known = metrics().get(labels[1], set())
                assert {label.strip() for label in labels[0].split(",")} <= known, (title, labels)
        assert asked > 10

    def test_queries_name_metrics_and_labels_that_the_recommender_has(self) -> None:
        from reclm.serving import metrics as serving_metrics

        known = {}
        for metric in vars(serving_metrics).values():
            if isinstance(metric, Counter | Gauge | Histogram):
                name = next(iter(metric.describe())).name
                known[f"{name}_total" if isinstance(metric, Counter) else name] = set(metric._labelnames)
        asked = set()
        for title, target in [*targets(), *alerts()]:
            query = target.get("expr", "")
            grouped = re.search(r"by \(([^)]*)\)", query)
            for name, matchers in re.findall(r"(reclm_\w+?)(?:_bucket)?\b(?:\{([^}]*)\})?", query):
                labels = {*re.findall(r"(\w+)=~?\"", matchers), *(grouped[1].split(", ") if grouped else ())}
                assert name in known, (title, name)
                assert labels - {"le"} <= known[name], (title, labels)
                asked.add(name)
        assert asked == known.keys(), "a metric is made for nobody"

    def test_sql_reads_only_what_the_role_may_read(self) -> None:
        readable = program("airflow/prepare.py").READABLE
        asked = {
            table for _, one in targets() for table in re.findall(r"(?:from|join) (\w+)\b(?!\()", one.get("rawSql", ""))
        }
        assert asked == set(readable)

    def test_data_sources_are_provisioned_and_reach_services(self) -> None:
        sources = yaml.safe_load((INFRA / "grafana/provisioning/datasources/reclm.yaml").read_text())["datasources"]
        assert {target["datasource"]["uid"] for _, target in targets()} == {source["uid"] for source in sources}
        for source in sources:
            assert re.sub(r"^http://|:\d+$", "", source["url"]) in SERVICES
        assert "GRAFANA_DATABASE_PASSWORD" in SERVICES["grafana"]["environment"]

    def test_the_file_is_where_grafana_looks(self) -> None:
        mounts = dict(mount.split(":")[:2] for mount in SERVICES["grafana"]["volumes"])
        home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
        provider = yaml.safe_load((INFRA / "grafana/provisioning/dashboards/reclm.yaml").read_text())["providers"][0]
        assert mounts["./grafana/dashboards"] == provider["options"]["path"] == str(Path(home).parent)

    def test_panels_have_their_own_numbers_and_say_what_they_show(self) -> None:
        assert len({board["uid"] for board in DASHBOARDS}) == len(DASHBOARDS) == 2
        for panels in (board["panels"] for board in DASHBOARDS):
            assert len({panel["id"] for panel in panels}) == len(panels)
            assert all(panel["description"] for panel in panels)


def test_the_filled_in_variables_are_never_committed() -> None:
    assert "/infra/.env" in (ROOT / ".gitignore").read_text().splitlines()
    assert not re.search(r"^\w*(PASSWORD|SECRET|KEY)\w*=.+", EXAMPLE, flags=re.MULTILINE)
