from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme

from airflow_provider_hailuo.apiframe import environment
from airflow_provider_hailuo.apiframe.environment import proxy_for, ssl_context
from airflow_provider_hailuo.apiframe.errors import InvalidInputError

API = "https://api.apiframe.ai"
VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "REQUEST_METHOD")
CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE")


@pytest.fixture(autouse=True)
def variables(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in (*VARIABLES, *CERTIFICATES):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    ("given", "proxy"),
    [
        ({}, None),
        ({"HTTPS_PROXY": "http://a.example:1"}, "http://a.example:1"),
        ({"https_proxy": "a.example:1"}, "http://a.example:1"),
        ({"HTTPS_PROXY": "http://a.example:1", "https_proxy": "https://b.example"}, "https://b.example"),
        ({"HTTPS_PROXY": "http://a.example:1", "https_proxy": ""}, None),
        ({"HTTP_PROXY": "http://a.example:1"}, None),
        ({"ALL_PROXY": "http://a.example:1"}, "http://a.example:1"),
        ({"ALL_PROXY": "http://a.example:1", "HTTPS_PROXY": "http://b.example:2"}, "http://b.example:2"),
        ({"HTTPS_PROXY": "http://a.example:1", "ALL_PROXY": "nonsense://"}, "http://a.example:1"),
    ],
)
def test_the_proxy_is_that_of_the_scheme_or_else_of_all(variables, given: dict[str, str], proxy: str | None):
    for name, value in given.items():
        variables.setenv(name, value)

    found = proxy_for(API)

    assert (None if found is None else str(found.url)) == proxy


def test_a_password_reaches_the_proxy(variables):
    variables.setenv("HTTPS_PROXY", "http://user:hunter2@a.example:1")

    assert proxy_for(API).auth == ("user", "hunter2")


@pytest.mark.parametrize(
    ("url", "no_proxy"),
    [
        (API, "*"),
        (API, "localhost, * "),
        (API, "api.apiframe.ai"),
        (API, "localhost, API.apiframe.ai"),
        (API, "apiframe.ai"),
        (API, ".apiframe.ai"),
        (API, "*.apiframe.ai"),
        (API, "api.apiframe.ai:443"),
        (API, "https://api.apiframe.ai"),
        (f"{API}:8443", "api.apiframe.ai:8443"),
        ("http://localhost:8787", "localhost,[::1]"),
        ("https://10.1.2.3", "10.0.0.0/8"),
        ("https://10.1.2.3:8443", "10.1.2.3"),
        ("https://10.1.2.3", "10.255.0.0/8"),
        ("http://[::1]:8787", "localhost,[::1]"),
        ("http://[::1]:8787", "::1"),
        ("http://[::1]:8787", "0:0:0:0:0:0:0:1"),
        ("http://[::1]:8787", "[::1]:8787"),
        ("http://[::1]:8787", "[0:0::1]"),
        ("https://[fd00:12::1]", "fd00::/8"),
        ("https://[fd00:12::1]", "[fd00::]/8,fd00::/8"),
    ],
)
def test_no_proxy_excepts(variables, url: str, no_proxy: str):
    for name in ("HTTP_PROXY", "HTTPS_PROXY"):
        variables.setenv(name, "http://a.example:1")
    assert proxy_for(url) is not None

    variables.setenv("NO_PROXY", no_proxy)

    assert proxy_for(url) is None


@pytest.mark.parametrize(
    ("url", "no_proxy"),
    [
        (API, ""),
        (API, ","),
        (API, "localhost,[::1],fd00::/8,10.0.0.0/8"),
        (API, "iframe.ai"),
        (API, "api.apiframe.ai.evil.example"),
        (API, "api.apiframe.ai:8443"),
        (API, "[::1"),
        ("https://10.1.2.3", "11.0.0.0/8,10.1.2.3:8443,fd00::/8"),
        ("https://[fd00::1]", "[fd00::1]:8443,10.0.0.0/8,fe80::/10"),
    ],
)
def test_no_proxy_excepts_nothing_else(variables, url: str, no_proxy: str):
    variables.setenv("HTTPS_PROXY", "http://a.example:1")
    variables.setenv("NO_PROXY", no_proxy)

    assert proxy_for(url) is not None


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])
@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("http://[::1", "is no URL of a proxy.*http://proxy.example:3128"),
        ("http://a.example:port", "is no URL of a proxy"),
        ("http://", "is no URL of a proxy"),
        ("gopher://a.example", "is no URL of a proxy"),
        ("socks4://a.example:1080", "is no URL of a proxy"),
        ("http://user:hunter2@a.example:99999999", "'a.example:99999999': is no URL of a proxy"),
        ("socks5://user:hunter2@a.example:1080", "'a.example:1080': needs the Python package socksio"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_one_error_that_names_the_variable(
    variables, name: str, value: str, told: str
):
    variables.setattr(environment, "find_spec", lambda _: None)
    variables.setenv(name, value)

    with pytest.raises(InvalidInputError, match=f"environment variable {name}: .*{told}") as raised:
        proxy_for(API)

    assert "hunter2" not in str(raised.value)
    variables.setenv("NO_PROXY", "apiframe.ai")
    assert proxy_for(API) is None


def test_a_socks_proxy_is_used_with_its_package(variables):
    variables.setattr(environment, "find_spec", lambda name: name)
    variables.setenv("ALL_PROXY", "socks5://a.example:1080")

    assert str(proxy_for(API).url) == "socks5://a.example:1080"


@pytest.mark.parametrize("name", CERTIFICATES)
def test_certificates_that_are_not_there_are_one_error_that_names_the_variable(variables, tmp_path: Path, name: str):
    missing = tmp_path / "none"
    variables.setenv(name, str(missing))

    with pytest.raises(InvalidInputError, match=rf"environment variable {name}: .*none'.*or unset it"):
        ssl_context()


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"])
@pytest.mark.parametrize("content", [b"", b"not a certificate", b"-----BEGIN CERTIFICATE-----\ncut o"])
def test_a_file_without_certificates_is_one_error_that_names_the_variable(
    variables, tmp_path: Path, name: str, content: bytes
):
    file = tmp_path / "ca.pem"
    file.write_bytes(content)
    variables.setenv(name, str(file))
    with pytest.raises(InvalidInputError, match=rf"environment variable {name}: .*CA certificates \(PEM\)"):
        ssl_context()
    variables.setenv(name, str(tmp_path))
    with pytest.raises(InvalidInputError, match=rf"environment variable {name}: "):
        ssl_context()


def test_a_file_that_is_not_the_first_choice_harms_nobody(variables, tmp_path: Path):
    file = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(file))
    variables.setenv("SSL_CERT_FILE", str(file))
    variables.setenv("REQUESTS_CA_BUNDLE", "/no/such/file")

    assert len(ssl_context().get_ca_certs()) == 1


def test_a_directory_may_stand_among_others_that_are_not_there(variables, tmp_path: Path):
    variables.setenv("SSL_CERT_DIR", f"/no/such/directory:{tmp_path}")

    assert ssl_context().verify_mode is ssl.CERT_REQUIRED


def test_the_certificates_are_loaded_once():
    assert ssl_context() is ssl_context()
    assert len(ssl_context().get_ca_certs()) > 50
