"""What environment variables say of certificates and proxies: it holds, or one error names the variable."""

from __future__ import annotations

import os
import ssl
import urllib.request
from functools import lru_cache
from importlib.util import find_spec
from ipaddress import ip_address, ip_network
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from airflow_provider_hailuo.apiframe.errors import InvalidInputError

LAST_PORT = 65535


def ssl_context() -> ssl.SSLContext:
    """Return which certificates are trusted.

    :return: those of SSL_CERT_FILE (else REQUESTS_CA_BUNDLE) and SSL_CERT_DIR; without any of them certifi's.
    :raises InvalidInputError: one of the variables names what is not there, or holds no certificates.
    """
    variable = "SSL_CERT_FILE" if os.environ.get("SSL_CERT_FILE") else "REQUESTS_CA_BUNDLE"
    return _ssl_context(variable, os.environ.get(variable), os.environ.get("SSL_CERT_DIR"))


@lru_cache(maxsize=4)
def _ssl_context(variable: str, file: str | None, directories: str | None) -> ssl.SSLContext:
    # Loading the certificates blocks for 35 ms: once per process, not once per client.
    if not (file or directories):
        return httpx.create_ssl_context()
    # OpenSSL passes over directories that are not there.
    if directories and not any(Path(directory).is_dir() for directory in directories.split(os.pathsep)):
        raise _refusal("SSL_CERT_DIR", directories, "is not there: name a directory of CA certificates, or unset it")
    try:
        return ssl.create_default_context(cafile=file, capath=directories)
    except OSError as error:
        problem = f"cannot be read ({error.strerror}): name a file of CA certificates (PEM), or unset it"
        raise _refusal(variable, file, problem) from None


def proxy_for(url: str) -> httpx.Proxy | None:
    """Return the proxy that leads to `url`.

    HTTPS_PROXY or HTTP_PROXY, by the scheme of the URL, goes before ALL_PROXY. NO_PROXY holds host names (which
    stand for their subdomains too), addresses, networks such as `10.0.0.0/8`, or `*`; a port may follow a host.

    :param url: an absolute http(s) URL.
    :return: the proxy; None for a direct way.
    :raises InvalidInputError: the variable holds no URL of a proxy, or of a kind that cannot be used here.
    """
    proxies = urllib.request.getproxies()
    scheme = urlsplit(url).scheme
    kind = scheme if proxies.get(scheme) else "all"
    address = proxies.get(kind)
    if not address or _is_direct(url, proxies.get("no", "")):
        return None
    variable = f"{kind}_proxy"
    variable = variable if os.environ.get(variable) else variable.upper()
    shown = address.rpartition("@")[2]  # what stands before an @ may be a secret
    try:
        proxy = httpx.Proxy(address if "://" in address else f"http://{address}")
    except (ValueError, httpx.InvalidURL):
        proxy = None
    if proxy is None or not proxy.url.host or (proxy.url.port or 1) > LAST_PORT:
        problem = "is no URL of a proxy: write for example http://proxy.example:3128, or unset it"
        raise _refusal(variable, shown, problem)
    if proxy.url.scheme.startswith("socks") and find_spec("socksio") is None:
        problem = (
            "needs the Python package socksio: install it, or name an http:// proxy, or except the host in NO_PROXY"
        )
        raise _refusal(variable, shown, problem)
    return proxy


def _is_direct(url: str, no_proxy: str) -> bool:
    parts = urlsplit(url)
    host = parts.hostname or ""
    place = f"[{host}]" if ":" in host else host
    place += f":{parts.port or {'http': 80, 'https': 443}[parts.scheme]}"
    entries = [entry.strip().rpartition("://")[2] for entry in no_proxy.split(",")]
    names = ",".join(entry.lstrip("*") for entry in entries)
    return (
        "*" in entries
        or urllib.request.proxy_bypass_environment(place, {"no": names})  # type: ignore[attr-defined]
        or any(_is_in(host, entry) for entry in entries)
    )


def _is_in(host: str, network: str) -> bool:
    try:
        return ip_address(host) in ip_network(network.strip("[]"), strict=False)
    except ValueError:
        return False


def _refusal(variable: str, value: object, problem: str) -> InvalidInputError:
    return InvalidInputError.of((f"environment variable {variable}", value, problem))
