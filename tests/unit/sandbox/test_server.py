from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from airflow_provider_hailuo import sandbox as package
from airflow_provider_hailuo.sandbox import Sandbox
from airflow_provider_hailuo.sandbox.errors import SettingError

Api = Any


def port_of(sandbox: Sandbox) -> int:
    return httpx.URL(sandbox.base_url).port or 80


def test_a_sandbox_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    threads = set(threading.enumerate())
    with Sandbox() as sandbox:
        assert httpx.get(sandbox.base_url, trust_env=False).status_code == 200
        assert len(list(tmp_path.iterdir())) == 1
        assert set(threading.enumerate()) > threads
    assert not [thread for thread in set(threading.enumerate()) - threads if thread.is_alive()]
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(httpx.ConnectError):
        httpx.get(sandbox.base_url, trust_env=False)


def test_it_is_stopped_when_the_block_fails() -> None:
    with pytest.raises(ZeroDivisionError), Sandbox() as sandbox:
        raise ZeroDivisionError
    with pytest.raises(httpx.ConnectError):
        httpx.get(sandbox.base_url, trust_env=False)


def test_answers_are_not_held_back(start: Callable[..., Api]) -> None:
    api = start()
    usual = sorted(api.generate().elapsed for _ in range(20))[10]
    assert usual.total_seconds() < 0.03


def test_clients_do_not_hold_up_the_end() -> None:
    request = b"POST /v2/videos/generate HTTP/1.1\r\nHost: x\r\nX-API-Key: afk_sandbox\r\nContent-Length: 100\r\n\r\n"
    with ExitStack() as clients, Sandbox() as sandbox:
        for sent in (b"", request[:20], request, request + b"{"):
            client = clients.enter_context(socket.create_connection(("127.0.0.1", port_of(sandbox))))
            client.sendall(sent)
        assert sandbox.stats()["requests"]["POST /v2/videos/generate"] == 2
        leaving = time.monotonic()
    assert time.monotonic() - leaving < 5


def test_many_can_run_at_once(start: Callable[..., Api]) -> None:
    one, two = start(api_key="afk_one"), start(api_key="afk_two")
    assert one.base_url != two.base_url
    one.submit()
    assert one.sandbox.stats()["jobs"]["QUEUED"] == 1
    assert two.sandbox.stats()["jobs"]["QUEUED"] == 0
    assert one.get("/v2/me", headers={"X-API-Key": "afk_two"}).status_code == 401


def test_a_port_that_is_taken_is_an_error(start: Callable[..., Api]) -> None:
    taken = start().base_url.port
    with pytest.raises(OSError, match="in use"), Sandbox(port=taken):
        pass


def test_a_port_can_be_chosen_and_used_again() -> None:
    with Sandbox() as sandbox:
        port = port_of(sandbox)
    with Sandbox(port=port) as sandbox:
        assert sandbox.base_url == f"http://127.0.0.1:{port}"
        assert sandbox.stats()["credits"] == 1000


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="needs IPv6")
def test_it_listens_on_ipv6_too() -> None:
    with Sandbox(host="::1") as sandbox:
        assert sandbox.base_url.startswith("http://[::1]:")
        assert sandbox.stats()["credits"] == 1000


def test_a_seed_makes_chance_the_same_and_chance_leaves_ids_alone(start: Callable[..., Api]) -> None:
    rules = [{"fault": "error", "status": 503, "probability": 0.5, "route": "GET /v2/me"}]

    def run(**settings: Any) -> tuple[list[int], list[str]]:
        api = start(**settings)
        statuses = [api.get("/v2/me").status_code for _ in range(40)]
        upload = api.post("/v2/uploads", files={"file": b"GIF89a"}).json()
        return statuses, [upload["id"], api.submit(), api.submit()]

    one, two, other = run(seed=1, faults=rules), run(seed=1, faults=rules), run(seed=2, faults=rules)
    assert one == two
    assert one[0] != other[0]
    assert set(one[0]) == {200, 503}
    assert one[1] == run(seed=1)[1]


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"port": -1}, "port"),
        ({"port": 65536}, "port"),
        ({"api_key": ""}, "api_key"),
        ({"api_key": "afk sandbox"}, "api_key"),
        ({"api_key": "afk_\n"}, "api_key"),
        ({"api_key": "afk_é"}, "api_key"),
        ({"faults": [{"fault": "gremlins"}]}, "faults"),
    ],
)
def test_wrong_settings_are_named_at_once(settings: dict[str, Any], name: str) -> None:
    with pytest.raises(SettingError, match=name):
        Sandbox(**settings)


def test_the_package_exports_nothing_else() -> None:
    assert package.__all__ == ["Sandbox"]
    with pytest.raises(AttributeError, match="Account"):
        _ = package.Account


def test_airflow_is_not_imported() -> None:
    code = (
        "import sys; from airflow_provider_hailuo.sandbox import Sandbox; "
        "sys.exit(any(name.split('.')[0] == 'airflow' for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
