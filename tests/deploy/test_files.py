"""The files of `deploy/`: what can be checked without Docker and Kubernetes."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
from importlib.metadata import metadata
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from airflow.cli.cli_config import core_commands
from airflow.configuration import conf
from airflow.models.connection import Connection
from cryptography.fernet import Fernet

from airflow_provider_hailuo.apiframe.client import Settings
from airflow_provider_hailuo.sandbox import cli
from airflow_provider_hailuo.webhooks import receiver_url

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
PROVIDER = metadata("airflow-provider-hailuo")
AIRFLOW = re.search(r"^apache-airflow==(\S+)", (ROOT / "constraints/airflow-3.3.txt").read_text(), re.MULTILINE)[1]

DOCKERFILE = (DEPLOY / "Dockerfile").read_text("utf-8")
COMPOSE_TEXT = (DEPLOY / "docker-compose.yaml").read_text("utf-8")
DEPLOYMENT = (ROOT / "docs/deployment.md").read_text("utf-8")
HELM = yaml.safe_load((DEPLOY / "helm-values.yaml").read_text("utf-8"))
TRIAL = {
    name: shlex.split(value)[0]
    for name, _, value in (
        line.partition("=") for line in (DEPLOY / "sandbox.env").read_text("utf-8").splitlines() if line[0] != "#"
    )
}

VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")


def interpolated(text, variables):
    """Do what Compose does with variables, as far as the file makes use of it."""

    def value(match):
        name, kind, default = match.groups()
        if name not in variables and kind == "?":
            raise KeyError(name)
        return variables.get(name) or default or ""

    return VARIABLE.sub(value, text).replace("$$", "$")


COMPOSE = yaml.safe_load(interpolated(COMPOSE_TEXT, {name: name.lower() for name in TRIAL}))
SERVICES = COMPOSE["services"]
COMPONENTS = {
    "api-server": ["airflow-apiserver"],
    "scheduler": ["airflow-scheduler"],
    "dag-processor": ["airflow-dag-processor"],
    "celery worker": ["airflow-worker"],
    "triggerer": ["airflow-triggerer-1", "airflow-triggerer-2"],
}
COMPONENT_SERVICES = [SERVICES[name] for names in COMPONENTS.values() for name in names]
SECRETS = (
    "AIRFLOW__CORE__FERNET_KEY",
    "AIRFLOW__API__SECRET_KEY",
    "AIRFLOW__API_AUTH__JWT_SECRET",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN",
    "AIRFLOW_CONN_HAILUO_DEFAULT",
)


def is_option(section, option):
    return option in conf.configuration_description.get(section, {}).get("options", {})


@pytest.mark.parametrize(
    "variable", sorted({variable for service in SERVICES.values() for variable in service.get("environment", {})})
)
def test_variables_of_compose_are_options_of_airflow(variable):
    if match := re.fullmatch(r"AIRFLOW__([A-Z_]+?)__([A-Z_]+)", variable):
        assert is_option(match[1].lower(), match[2].lower())
    else:
        known = r"AIRFLOW_CONN_HAILUO_DEFAULT|_AIRFLOW_(DB|WWW_USER)_[A-Z]+|POSTGRES_[A-Z]+|DUMB_INIT_SETSID"
        assert re.fullmatch(rf"{known}|HAILUO_VIDEOS", variable)


def test_what_is_no_option_any_more_is_found():
    assert not is_option("triggerer", "default_capacity")


@pytest.mark.parametrize(
    ("section", "option"), [(section, option) for section, options in HELM["config"].items() for option in options]
)
def test_config_of_the_chart_is_known_to_airflow(section, option):
    assert is_option(section, option)


def test_compose_has_each_component():
    commands = {command.name for command in core_commands} | {"celery"}
    for command, names in COMPONENTS.items():
        assert command.split()[0] in commands
        assert names == [name for name, service in SERVICES.items() if service.get("command") == command]


def test_components_share_image_and_secrets():
    assert {service["image"] for service in COMPONENT_SERVICES} == {f"airflow-hailuo:{AIRFLOW}"}
    for secret in SECRETS:
        assert len({service["environment"][secret] for service in COMPONENT_SERVICES}) == 1


def test_components_wait_for_the_database_and_are_watched():
    for service in COMPONENT_SERVICES:
        assert service["depends_on"]["airflow-init"] == {"condition": "service_completed_successfully"}
        assert service["healthcheck"]["test"][0] in {"CMD", "CMD-SHELL"}
        assert service["healthcheck"]["start_period"]
    assert set(SERVICES["airflow-init"]["depends_on"]) == {"postgres", "redis"}
    assert SERVICES["airflow-init"]["restart"] == "no"


def test_what_services_refer_to_is_there():
    for service in SERVICES.values():
        needed = dict(service.get("depends_on") or {})
        if "network_mode" in service:
            needed[service["network_mode"].removeprefix("service:")] = {}
        assert needed.keys() <= SERVICES.keys()
        for name, condition in needed.items():
            assert condition.get("condition") != "service_healthy" or "healthcheck" in SERVICES[name]
    mounted = {mount.partition(":")[0] for service in SERVICES.values() for mount in service.get("volumes") or ()}
    assert {name for name in mounted if name[0] not in "./"} == COMPOSE["volumes"].keys()
    for path in [mount for mount in mounted if mount[0] == "."]:
        assert (DEPLOY / path).is_dir()
    environment = SERVICES["airflow-worker"]["environment"]
    for option in ("DATABASE__SQL_ALCHEMY_CONN", "CELERY__RESULT_BACKEND", "CELERY__BROKER_URL"):
        assert urlsplit(environment[f"AIRFLOW__{option}"]).hostname in SERVICES


def test_components_reach_the_api_server_by_its_name():
    url = urlsplit(SERVICES["airflow-worker"]["environment"]["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"])
    assert url.hostname in SERVICES
    assert url.path == "/execution/"
    assert SERVICES[url.hostname]["ports"] == [f"{url.port}:{url.port}"]


def test_the_database_has_connections_for_all():
    (connections,) = re.findall(r"max_connections=(\d+)", SERVICES["postgres"]["command"])
    pools = sum(len(names) for command, names in COMPONENTS.items() if command != "celery worker") + 1
    pool = conf.getint("database", "sql_alchemy_pool_size") + conf.getint("database", "sql_alchemy_max_overflow")
    assert pools * pool + conf.getint("celery", "worker_concurrency") <= int(connections)


def test_the_auth_manager_is_there():
    module, _, name = SERVICES["airflow-apiserver"]["environment"]["AIRFLOW__CORE__AUTH_MANAGER"].rpartition(".")
    assert name == "FabAuthManager"
    assert importlib.util.find_spec(module)


def test_secrets_have_no_default():
    required = {name for name, kind, _ in VARIABLE.findall(COMPOSE_TEXT) if kind == "?"}
    assert {"FERNET_KEY", "API_SECRET_KEY", "JWT_SECRET", "POSTGRES_PASSWORD", "ADMIN_PASSWORD"} <= required
    with pytest.raises(KeyError):
        interpolated(COMPOSE_TEXT, {})
    assert required <= TRIAL.keys()
    assert TRIAL.keys() - {"COMPOSE_PROFILES"} <= {name for name, _, _ in VARIABLE.findall(COMPOSE_TEXT)}


def test_the_trial_reaches_the_sandbox():
    Fernet(TRIAL["FERNET_KEY"])
    connection = Connection.from_json(TRIAL["AIRFLOW_CONN_HAILUO_DEFAULT"], conn_id="hailuo_default")
    assert connection.conn_type == "hailuo"
    settings = Settings(api_key=connection.password, base_url=connection.host)
    options = cli._parser().parse_args(SERVICES["sandbox"]["entrypoint"][1:])
    assert settings.api_key == options.api_key
    assert settings.base_url == f"http://127.0.0.1:{options.port}"
    for name, service in SERVICES.items():
        if "-port-of-" in name:
            listens, connects = service["command"].split()
            assert listens.startswith(f"TCP-LISTEN:{options.port},")
            assert "bind=127.0.0.1" in listens
            assert connects == f"TCP:sandbox:{options.port}"


def test_only_the_profile_starts_the_sandbox():
    of_profile = {name: service for name, service in SERVICES.items() if "profiles" in service}
    assert {tuple(service["profiles"]) for service in of_profile.values()} == {(TRIAL["COMPOSE_PROFILES"],)}
    callers = {service["network_mode"] for service in of_profile.values() if "network_mode" in service}
    asks = [*COMPONENTS["celery worker"], *COMPONENTS["triggerer"], *COMPONENTS["api-server"]]
    assert callers == {f"service:{name}" for name in asks}


def test_the_image_is_that_of_the_tested_airflow():
    defaults = dict(re.findall(r"^ARG (\w+)=(\S+)$", DOCKERFILE, re.MULTILINE))
    assert defaults["AIRFLOW_VERSION"] == AIRFLOW
    assert f"Programming Language :: Python :: {defaults['PYTHON_VERSION']}" in PROVIDER.get_all("Classifier")
    (image,) = re.findall(r"^FROM (\S+)$", DOCKERFILE, re.MULTILINE)
    assert image == "apache/airflow:${AIRFLOW_VERSION}-python${PYTHON_VERSION}"
    for requirement in (defaults["PROVIDER"], TRIAL["PROVIDER"]):
        name, extras = re.fullmatch(r"([\w-]+)\[([\w,]+)\]", requirement).groups()
        assert name == PROVIDER["Name"]
        assert set(extras.split(",")) <= set(PROVIDER.get_all("Provides-Extra"))
    assert "sandbox" in TRIAL["PROVIDER"]
    assert not re.search(r"^(USER|RUN apt)", DOCKERFILE, re.MULTILINE)
    build = SERVICES["airflow-worker"]["build"]
    assert build["args"].keys() <= defaults.keys()
    assert (DEPLOY / build["context"] / build["dockerfile"]).resolve() == DEPLOY / "Dockerfile"


def test_the_chart_runs_the_tested_airflow():
    assert HELM["airflowVersion"] == HELM["defaultAirflowTag"] == AIRFLOW
    assert HELM["executor"] == SERVICES["airflow-worker"]["environment"]["AIRFLOW__CORE__EXECUTOR"]


def test_the_chart_lets_webhooks_in():
    base = urlsplit(HELM["config"]["api"]["base_url"])
    assert base.scheme == "https"
    assert [host["name"] for host in HELM["ingress"]["apiServer"]["hosts"]] == [base.hostname]


def test_the_ingress_of_webhooks_leads_to_the_receiver(monkeypatch):
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", HELM["config"]["api"]["base_url"])
    (rule,) = yaml.safe_load((DEPLOY / "webhooks-ingress.yaml").read_text("utf-8"))["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    url = receiver_url("hailuo_default", Settings(api_key="afk_1"))
    assert url.startswith(f"https://{rule['host']}{path['path']}")
    assert url in DEPLOYMENT


def test_the_chart_has_two_of_what_must_not_stop():
    assert all(HELM[component]["replicas"] == 2 for component in ("apiServer", "scheduler", "triggerer"))
    assert HELM["secret"][0]["envName"] == "AIRFLOW_CONN_HAILUO_DEFAULT"


def test_a_triggerer_of_the_chart_has_memory_for_its_capacity():
    results = json.loads((ROOT / "benchmarks/results/full.json").read_text("utf-8"))
    capacity = conf.getint("triggerer", "capacity")
    (measured,) = {
        row["memory_mb"]
        for row in results["triggerer"]["rows"]
        if row["contender"] == "ours" and row["waiting"] == capacity and not row["foreign_jobs"]
    }
    requested = int(HELM["triggerer"]["resources"]["requests"]["memory"].removesuffix("Mi"))
    assert measured * 1e6 < requested * 2**20


def test_the_documentation_names_files_that_are_there():
    named = set(re.findall(r"\bdeploy/[\w.-]+\w", DEPLOYMENT))
    assert {f"deploy/{path.name}" for path in DEPLOY.iterdir() if path.is_file()} - {"deploy/sizing.py"} <= named
    assert all((ROOT / path).exists() for path in named)
    assert set(re.findall(r" exec (\S+)", DEPLOYMENT)) <= SERVICES.keys()
    for secret in ("fernetKeySecretName", "apiSecretKeySecretName", "jwtSecretName"):
        assert f"secret generic {HELM[secret]} " in DEPLOYMENT
    assert f"secret generic {HELM['secret'][0]['secretName']} " in DEPLOYMENT
