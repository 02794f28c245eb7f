"""Every block of code in the documentation does what it says."""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from airflow.configuration import conf
from packaging.requirements import Requirement
from PIL import Image

from airflow_provider_hailuo import get_provider_info, metrics
from airflow_provider_hailuo.hooks.hailuo import HailuoHook
from airflow_provider_hailuo.sandbox import Sandbox, cli
from tests.docs.pages import PAGES, PROJECT, Block, blocks, name, pieces
from tests.s3 import S3, serving

BLOCKS = [block for page in PAGES for block in blocks(page)]

RECEIVER = "/hailuo/webhooks/"
"""The path of the receiver of webhooks; what follows it is the connection."""

SANDBOX = {f"/sandbox/{name}" for name in ("faults", "jobs", "release", "stats")}
"""How the sandbox is looked at and steered."""

EXAMPLE_PROJECT = {path.read_text() for path in (PROJECT / "example_project").rglob("*.py")}
"""What a test of `tests/packaging` runs."""

SPHINX = {"{toctree}", "{include}"}
"""What Sphinx reads: `test_build.py`."""

Ran = Mapping[str, str]
"""What went wrong, by the name of a file or by the command; "" if nothing did."""


def file_name(block: Block) -> str:
    return re.sub(r"\W", "_", block.place)


def command_lines(text: str) -> Iterator[list[str]]:
    """Yield the words of each command, and of the one that a command runs in a container."""
    for line in text.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            while words[0].startswith("AIRFLOW__"):
                words.pop(0)
            yield words
            if "exec" in words:
                yield words[words.index("exec") + 2 :]


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with serving() as s3:
        s3.client.create_bucket(Bucket="my-bucket")
        yield s3


@pytest.fixture(scope="module")
def ran(s3: S3, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """Run the blocks of Python and the commands of Airflow, all in one process beside this one."""
    home = tmp_path_factory.mktemp("airflow")
    for block in BLOCKS:
        if block.language == "python" and block.text not in EXAMPLE_PROJECT:
            path = home / ("dags" if "@dag" in block.text else "scripts") / f"{file_name(block)}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(block.text.replace("/tmp/videos/", f"{home}/videos/"))
    shell = [block.text for block in BLOCKS if block.language == "sh"]
    lines = [words for text in [*shell, *COMMAND_PIECES] for words in command_lines(text)]
    commands = {shlex.join(words[1:]): words[1:] for words in lines if words[0] == "airflow"}
    for arguments in commands.values():
        if len(arguments) == 2:  # a subcommand in the text, which may need more
            arguments.append("--help")
    (home / "commands.json").write_text(json.dumps(commands))
    Image.new("RGB", (32, 32)).save(home / "first.png")
    with Sandbox(render_seconds=0) as sandbox:
        connection = {"conn_type": "hailuo", "host": sandbox.base_url, "password": sandbox.api_key}
        surroundings = {
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
            "AIRFLOW_CONN_HAILUO_DEFAULT": json.dumps(connection),
            "AIRFLOW_CONN_AWS_DEFAULT": s3.connection_json(),
        }
        run = [sys.executable, str(Path(__file__).with_name("run_python.py"))]
        done = subprocess.run(run, env=os.environ | surroundings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads((home / "results.json").read_text())


def airflow(arguments: list[str], ran: Ran) -> None:
    assert not (problem := ran[shlex.join(arguments)]), problem


def make(arguments: list[str], ran: Ran) -> None:
    targets = re.findall(r"^([a-z-]+):.*## ", (PROJECT / "Makefile").read_text(), re.MULTILINE)
    wanted = [argument for argument in arguments if "=" not in argument]
    assert wanted
    assert set(wanted) <= set(targets)


def pip(arguments: list[str], ran: Ran) -> None:
    assert arguments[0] == "install"
    for requirement in (Requirement(argument) for argument in arguments[1:] if not argument.startswith("-")):
        installed = metadata.metadata(requirement.name)
        assert requirement.specifier.contains(installed["Version"])
        assert requirement.extras <= set(installed.get_all("Provides-Extra", []))


def sandbox(arguments: list[str], ran: Ran) -> None:
    known = {option for action in cli._parser()._actions for option in action.option_strings}
    assert {argument.partition("=")[0] for argument in arguments if argument.startswith("-")} <= known
    if "--help" not in arguments:
        Sandbox(**vars(cli._parser().parse_args(arguments)))


def benchmark(arguments: list[str], ran: Ran) -> None:
    script, option, part = arguments
    assert (PROJECT / script).is_file()
    assert option == "--only"
    assert (PROJECT / f"benchmarks/{part}.py").is_file()


def script(arguments: list[str], ran: Ran) -> None:
    subprocess.run([sys.executable, *arguments], cwd=PROJECT, check=True, capture_output=True)


def curl(arguments: list[str], ran: Ran) -> None:
    (path,) = (urlsplit(argument).path for argument in arguments if argument.startswith("http"))
    assert path in {f"{RECEIVER}hailuo_default", *SANDBOX}
    if "--data" in arguments:
        Sandbox(faults=json.loads(arguments[arguments.index("--data") + 1]))


def elsewhere(arguments: list[str], ran: Ran) -> None:
    """Check which files a program is given that is not here."""
    for argument in arguments:
        if argument.startswith(("deploy/", "tests/")):
            assert (PROJECT / argument).exists()


def export(arguments: list[str], ran: Ran) -> None:
    (assignment,) = arguments
    variable, _, value = assignment.partition("=")
    if variable.startswith("AIRFLOW_CONN_"):
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv(variable, value)
            HailuoHook(variable.removeprefix("AIRFLOW_CONN_").lower()).get_settings()
    else:
        assert variable in (PROJECT / "dev/demo.py").read_text()


COMMANDS: Mapping[str, Callable[[list[str], Ran], None]] = {
    "airflow": airflow,
    "make": make,
    "pip": pip,
    "hailuo-sandbox": sandbox,
    ".nox/bench/bin/python": benchmark,
    "python": script,
    "export": export,
    "curl": curl,
    **dict.fromkeys(("docker", "helm", "kubectl", "pre-commit", "uv", ".venv/bin/python"), elsewhere),
}
"""How a command is checked, by its first word."""

COMMAND_PIECES = sorted(
    {piece for page in PAGES for piece in pieces(page) if piece.partition(" ")[0] in COMMANDS and " " in piece}
)
"""The commands in running text."""


def python(block: Block, ran: Ran) -> None:
    if block.text not in EXAMPLE_PROJECT:
        assert not (problem := ran[file_name(block)]), problem


def shell(block: Block, ran: Ran) -> None:
    for words in command_lines(block.text):
        assert words[0] in COMMANDS, f"nobody checks the command {words[0]}"
        COMMANDS[words[0]](words[1:], ran)


def faults(block: Block, ran: Ran) -> None:
    Sandbox(faults=json.loads(block.text))


def options(block: Block, ran: Ran) -> None:
    ini = configparser.ConfigParser()
    ini.read_string(block.text)
    ours = get_provider_info()["config"]
    for section in ini.sections():
        for option in ini[section]:
            assert option in ours.get(section, {}).get("options", {}) or conf.has_option(section, option), option


def alerts_or_ingress(block: Block, ran: Ran) -> None:
    content = yaml.safe_load(block.text)
    if isinstance(content, dict):
        (rule,) = content["spec"]["rules"]  # of an Ingress
        assert [path["path"] for path in rule["http"]["paths"]] == [RECEIVER]
        return
    found = re.findall(r"airflow_(hailuo_\w+)", " ".join(alert["expr"] for alert in content))
    assert found
    assert set(found) <= {metric.replace(".", "_") for metric in METRICS}


def counts(block: Block, ran: Ran) -> None:
    for line in block.text.splitlines():
        assert re.match(r"airflow\.([\w.]+),", line)[1] in METRICS


METRICS = {value for constant, value in vars(metrics).items() if constant.isupper()}

LANGUAGES: Mapping[str, Callable[[Block, Ran], None]] = {
    "python": python,
    "sh": shell,
    "json": faults,
    "ini": options,
    "yaml": alerts_or_ingress,
    "": counts,
}
"""How a block is checked, by what stands behind its fence."""


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language not in SPHINX], ids=lambda b: b.place)
def test_a_block_does_what_it_says(block: Block, ran: Ran):
    assert block.language in LANGUAGES, f"nobody checks blocks of {block.language!r}"
    LANGUAGES[block.language](block, ran)


@pytest.mark.parametrize("piece", COMMAND_PIECES)
def test_a_command_in_the_text_is_one(piece: str, ran: Ran):
    (words,) = command_lines(piece)
    COMMANDS[words[0]](words[1:], ran)


def test_there_is_code_to_check():
    assert {block.place.partition(":")[0] for block in BLOCKS} >= {"README.md", "docs/first-dag.md"}
    assert "make bench" in COMMAND_PIECES
    assert {name(page) for page in PAGES} >= {"README.md", "docs/ko/quickstart.md"}
