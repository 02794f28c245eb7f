"""The command `hailuo-sandbox`."""

from __future__ import annotations

import json
import logging
import signal
import sys
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from threading import Event
from typing import Any

from airflow_provider_hailuo import sandbox
from airflow_provider_hailuo.sandbox.errors import SettingError


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the sandbox until SIGINT or SIGTERM.

    Once it listens, one line of JSON on stdout says where, and which key it accepts. Warnings go to stderr.

    :param arguments: the command line without the program's name, default that of the process.
    :raises SystemExit: when the sandbox cannot run: status 2 for a wrong option, 1 for anything else.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        server = sandbox.Sandbox(**vars(options))
    except ImportError as error:
        sys.exit(str(error))
    except SettingError as error:
        parser.error(f"argument --{error.name.replace('_', '-')}: {error.requirement}")

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    if not _is_loopback(options.host):
        sys.stderr.write(f"warning: {options.host} is not loopback: others may reach the sandbox\n")
    stop = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        with server:
            sys.stdout.write(json.dumps({"base_url": server.base_url, "api_key": server.api_key}) + "\n")
            sys.stdout.flush()
            stop.wait()
    except OSError as error:
        sys.exit(f"hailuo-sandbox cannot start on {options.host}, port {options.port}: {error}")


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        "hailuo-sandbox",
        description="A local Apiframe for tests: same contract, real MP4 files, no key and no credits.",
    )
    option = parser.add_argument
    option("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
    option("--port", type=int, default=8787, help="port to listen on, 0 for any free one (default %(default)s)")
    option("--api-key", default="afk_sandbox", help="the key to accept (default %(default)s)")
    option("--credits", type=int, default=1000, help="the balance at the start (default %(default)s)")
    option("--render-seconds", type=float, default=10.0, help="how long a render takes (default %(default)s)")
    option("--jitter", type=float, default=0.2, help="fraction by which that varies (default %(default)s)")
    option("--retention-seconds", type=float, default=86400.0, help="how long videos are kept (default %(default)s)")
    option("--seed", type=int, help="make ids, render times and chance faults the same in every run")
    option("--faults", type=_json, default=[], help="what to break: a JSON list of rules, or a file that holds one")
    return parser


def _json(argument: str) -> Any:
    try:
        return json.loads(argument if argument.lstrip().startswith(("[", "{")) else Path(argument).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ArgumentTypeError(str(error)) from None


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
