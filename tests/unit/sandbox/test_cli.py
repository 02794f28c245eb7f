from __future__ import annotations

import inspect
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from airflow_provider_hailuo.sandbox import Sandbox
from airflow_provider_hailuo.sandbox.cli import main


@pytest.fixture
def run() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Run the command in a process of its own, which does not outlive the test."""
    processes: list[subprocess.Popen[str]] = []
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}

    def run(*options: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-W", "error", "-m", "airflow_provider_hailuo.sandbox", *options]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        processes.append(process)
        return process

    yield run
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_says_where_it_listens_and_ends_cleanly(
    run: Callable[..., subprocess.Popen[str]], number: signal.Signals
) -> None:
    process = run("--port", "0", "--api-key", "afk_mine", "--credits", "7", "--render-seconds", "0.1", "--seed", "3")
    assert process.stdout
    where = json.loads(process.stdout.readline())
    assert where == {"base_url": where["base_url"], "api_key": "afk_mine"}
    me = httpx.get(f"{where['base_url']}/v2/me", headers={"X-API-Key": "afk_mine"}, trust_env=False)
    assert me.json()["team"]["credits"] == 7

    process.send_signal(number)
    rest, complaints = process.communicate(timeout=120)
    assert (process.returncode, rest, complaints) == (0, "", "")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--port", "70000"),
        ("--credits", "1.5"),
        ("--jitter", "2"),
        ("--retention-seconds", "inf"),
        ("--api-key", ""),
        ("--faults", '[{"fault": "error"}]'),
    ],
)
def test_a_wrong_option_is_named(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([f"{option}={value}"])
    assert caught.value.code == 2
    assert f"argument {option}: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("faults", "complaint"),
    [
        ('{"fault": "reset"}', "must be a valid list"),
        ('[{"fault": "error", "status": 200}]', "[0].status: must be greater than or equal to 300 (given: 200)"),
        ("[{", "line 1 column 3"),
        ("no-such-file.json", "No such file or directory: 'no-such-file.json'"),
    ],
)
def test_what_is_wrong_with_faults_is_told(faults: str, complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--faults", faults])
    assert complaint in capsys.readouterr().err


def test_faults_come_from_the_command_line_or_from_a_file(
    run: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    file = tmp_path / "faults.json"
    file.write_text('[{"fault": "error", "status": 503}]')
    for given, status in ((' [{"fault": "error", "status": 429}]', 429), (str(file), 503)):
        process = run("--port", "0", "--faults", given)
        assert process.stdout
        where = json.loads(process.stdout.readline())
        assert httpx.get(f"{where['base_url']}/v2/me", trust_env=False).status_code == status


def test_an_address_that_is_not_ours_is_an_error_and_one_that_is_not_loopback_a_warning(
    run: Callable[..., subprocess.Popen[str]],
) -> None:
    process = run("--host", "192.0.2.1", "--port", "0")
    output, complaints = process.communicate(timeout=120)
    warning, error = complaints.splitlines()
    assert (process.returncode, output) == (1, "")
    assert "192.0.2.1 is not loopback" in warning
    assert "cannot start on 192.0.2.1, port 0" in error


def test_help_names_all_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    told = set(re.findall(r"^  --([\w-]+)", capsys.readouterr().out, re.MULTILINE))
    assert told == {name.replace("_", "-") for name in inspect.signature(Sandbox).parameters}


def test_without_the_extra_one_line_says_what_to_install() -> None:
    code = "import sys; sys.modules['av'] = None; from airflow_provider_hailuo.sandbox.cli import main; main([])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines() == ['The sandbox needs av: pip install "airflow-provider-hailuo[sandbox]"']
