"""Tests with each supported Airflow, of the sources and of the wheel, and the environments that they run in.

`constraints/airflow-X.txt` is a complete, hashed environment for development with Airflow X: what this project, its
extra `sandbox` and its dependency group `dev` need, in the versions of the time of that Airflow.
`constraints/bench.txt` is the one of Airflow 3.3 with what the dependency group `bench` needs.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import nox

nox.needs_version = ">=2026.10"  # finds an interpreter for a range of versions
nox.options.default_venv_backend = "uv"
nox.options.download_python = "never"
nox.options.reuse_venv = "yes"
nox.options.stop_on_first_error = False

DISTRIBUTION = "airflow-provider-hailuo"


@dataclass(frozen=True)
class Release:
    """A release of Airflow, and the packages that were there at its time.

    Packages count that were there before the day `until` (YYYY-MM-DD, UTC); `newer` names those that need a later
    day, because this project's own lower bounds are younger than that Airflow. `python` is a version specifier.
    """

    version: str
    until: str
    newer: Mapping[str, str] = field(default_factory=dict)
    python: str | None = None


AIRFLOW = {
    "2.11": Release("2.11.2", until="2026-03-28", python=">=3.10,<3.13"),
    "3.0": Release(
        "3.0.6",
        until="2025-09-12",
        newer=dict.fromkeys(("apache-airflow-providers-common-compat", "ruff", "uv"), "2026-03-28"),
        python=">=3.10,<3.13",
    ),
    "3.1": Release("3.1.8", until="2026-03-25"),
    "3.2": Release("3.2.2", until="2026-06-12"),
    "3.3": Release("3.3.2", until="2026-11-15"),
}


BENCH = "constraints/bench.txt"


def constraints(airflow: str) -> str:
    """Return the path of the locked environment for the Airflow `airflow`, such as "3.3"."""
    return f"constraints/airflow-{airflow}.txt"


for name, release in AIRFLOW.items():

    @nox.session(name=f"unit-{name}", python=release.python)
    def unit(session: nox.Session, airflow: str = name) -> None:
        """Run the tests that need no running Airflow."""
        session.run_install("uv", "pip", "sync", "--quiet", "--require-hashes", constraints(airflow))
        session.install("--no-deps", "--no-build-isolation", "--editable", ".")
        session.run("pytest", *(session.posargs or ["tests/unit", "tests/contract"]))


for name in "2.11", "3.3":

    @nox.session(name=f"wheel-{name}", python=AIRFLOW[name].python)
    def wheel(session: nox.Session, airflow: str = name) -> None:
        """Install the wheel with nothing but what it asks for: Airflow shows the provider."""
        dist = Path(session.create_tmp(), "dist")
        session.run_install(
            *("uv", "build", "--quiet", "--wheel", "--clear", f"--out-dir={dist}"),
            *("--require-hashes", f"--build-constraints={constraints('3.3')}"),
        )
        (built,) = dist.glob("*.whl")
        session.install(
            *("--exact", f"--reinstall-package={DISTRIBUTION}", f"--constraints={constraints(airflow)}"),
            *(str(built), f"apache-airflow=={AIRFLOW[airflow].version}"),
        )
        home = {"AIRFLOW_HOME": str(Path(session.create_tmp(), "airflow").resolve())}
        for command in ("list",), ("get", DISTRIBUTION):
            shown = session.run("airflow", "providers", *command, "--output=plain", env=home, silent=True)
            if DISTRIBUTION not in str(shown):
                session.error(f"`airflow providers {' '.join(command)}` does not show {DISTRIBUTION}:\n{shown}")


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Run the benchmarks; what follows `--` are arguments of benchmarks/run.py."""
    session.run_install("uv", "pip", "sync", "--quiet", "--require-hashes", "--compile-bytecode", BENCH)
    session.install("--no-deps", "--no-build-isolation", "--editable", ".")
    session.run("python", "benchmarks/run.py", *session.posargs)


@nox.session(venv_backend="none", default=False)
def lock(session: nox.Session) -> None:
    """Resolve the environments of `constraints/` anew."""
    wanted = Path(session.create_tmp(), "requirements.in")
    environments = [(constraints(name), release, ["dev"]) for name, release in AIRFLOW.items()]
    environments.append((BENCH, AIRFLOW["3.3"], ["dev", "bench"]))
    for path, release, groups in environments:
        # What builds the project in an environment without isolation belongs to that environment.
        wanted.write_text(f"apache-airflow=={release.version}\nhatchling\neditables\n")
        session.run(
            *(sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--upgrade"),
            *("--universal", "--python-version=3.10", "--generate-hashes", "--no-annotate", "--no-header"),
            f"--exclude-newer={release.until}T00:00:00Z",
            *(f"--exclude-newer-package={package}={day}T00:00:00Z" for package, day in release.newer.items()),
            *("--extra=sandbox", *(f"--group={group}" for group in groups), "pyproject.toml", str(wanted)),
            f"--output-file={path}",
        )
