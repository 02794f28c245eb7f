"""`make demo`: one video through a real Airflow, watched on the terminal. `make airflow`: an Airflow to look at.

Both run against a local sandbox or, with APIFRAME_API_KEY set, against the real API (APIFRAME_BASE_URL overrides
where that is). What is left to look at lies in `.demo/`.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
import time
from argparse import ArgumentParser
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import av
from local_airflow import LocalAirflow, LocalAirflowError, exit_on_signals, tail
from PIL import Image, ImageDraw

from airflow_provider_hailuo.apiframe import calls
from airflow_provider_hailuo.apiframe.client import BASE_URL, Client, Settings
from airflow_provider_hailuo.apiframe.errors import ApiframeError
from airflow_provider_hailuo.apiframe.models import Job
from airflow_provider_hailuo.sandbox import Sandbox

PROJECT = Path(__file__).resolve().parent.parent
OUTPUT = PROJECT / ".demo"
DAG, MAKE = "hailuo_quickstart", "make_video"
ENDED = {"success", "failed", "upstream_failed", "skipped", "removed"}
CREDITS = 5  # 768p, 6 s
SANDBOX_SECONDS = 20
SAMPLE_SECONDS = 0.1
PATIENCE_SECONDS = 40 * 60  # the operator itself gives up after 30 minutes


class DemoError(Exception):
    """What was wrong, and the log that tells more."""


class Display:
    """Prints what happens with the seconds since the start; on a terminal the last line is a live one."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._terminal = sys.stdout.isatty()

    def event(self, text: str) -> None:
        """Print a line that stays."""
        self._erase()
        print(f"{time.monotonic() - self._start:6.1f} s  {text}", flush=True)

    def live(self, text: str) -> None:
        """Show a line that the next one replaces; nothing, unless stdout is a terminal."""
        if self._terminal:
            self._erase()
            print(f"{time.monotonic() - self._start:6.1f} s  {text}", end="", flush=True)

    def _erase(self) -> None:
        if self._terminal:
            print("\r\x1b[2K", end="")


@dataclass(frozen=True)
class Video:
    """What was found by decoding a whole file: pixels, seconds, number of frames."""

    width: int
    height: int
    seconds: float
    frames: int
    codec: str


@contextmanager
def apiframe(purpose: str) -> Iterator[Settings]:
    """Provide the API: the real one if there is a key for it, else a sandbox.

    Parameters: `purpose`, what the real one will take credits for.
    """
    if key := os.environ.get("APIFRAME_API_KEY"):
        settings = Settings(api_key=key, base_url=os.environ.get("APIFRAME_BASE_URL", BASE_URL))
        print(f"APIFRAME_API_KEY is set: {purpose} costs {CREDITS} credits at {settings.base_url}", flush=True)
        yield settings
    else:
        with Sandbox(render_seconds=SANDBOX_SECONDS) as sandbox:
            print(f"Sandbox at {sandbox.base_url}, key {sandbox.api_key}: no credits, {SANDBOX_SECONDS} s a video")
            yield Settings(api_key=sandbox.api_key, base_url=sandbox.base_url)


@contextmanager
def airflow_with(settings: Settings, home: Path) -> Iterator[LocalAirflow]:
    """Provide an Airflow with the example DAGs and a connection to the API, in a fresh `home`."""
    shutil.rmtree(home, ignore_errors=True)
    (home / "videos").mkdir(parents=True)
    print("Airflow starts ...", end=" ", flush=True)
    start = time.monotonic()
    connection = {"conn_type": "hailuo", "host": settings.base_url, "password": settings.api_key}
    with LocalAirflow(
        home,
        PROJECT / "example_dags",
        wait_for=[DAG],
        connections={"hailuo_default": connection},
        config={
            "HAILUO_VIDEOS": str(home / "videos"),
            "AIRFLOW__HAILUO__VIDEO_TAB": "True",
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO",
        },
    ) as airflow:
        seconds = time.monotonic() - start
        print(f"after {seconds:.1f} s at {airflow.url} (no login: everybody is admin)", flush=True)
        yield airflow


def states(airflow: LocalAirflow, run_id: str) -> dict[str, str | None]:
    """Return the state of each task of the run, out of Airflow's database: its API is slow to answer at times."""
    with closing(sqlite3.connect(f"file:{airflow.database}?mode=ro", uri=True, timeout=30)) as database:
        query = "select task_id, state from task_instance where run_id = ? order by task_id"
        return dict(database.execute(query, [run_id]))


def watch(airflow: LocalAirflow, run_id: str, api: Client) -> Mapping[str | None, float]:
    """Show how the run goes until all tasks have ended.

    Returns how many seconds the task MAKE was in which state: it is looked at every SAMPLE_SECONDS, and the time
    since the last look counts for what it was then. Raises `DemoError` if the run does not end, and
    `LocalAirflowError` if Airflow does.
    """
    display = Display()
    display.event(f"{DAG} triggered: {run_id}")
    spent: defaultdict[str | None, float] = defaultdict(float)
    tasks: dict[str, str | None] = {}
    job_id: str | None = None
    job: Job | None = None
    start = looked = asked = time.monotonic()
    while not tasks or any(state not in ENDED for state in tasks.values()):
        time.sleep(SAMPLE_SECONDS)
        airflow.check()
        before, tasks, now = tasks, states(airflow, run_id), time.monotonic()
        spent[before.get(MAKE)] += now - looked
        looked = now
        for task, state in tasks.items():
            if state and state != before.get(task):
                display.event(f"{task} {state}")
                if state == "up_for_retry":
                    print(last_words(airflow, run_id, task), flush=True)
        if now - start > PATIENCE_SECONDS:
            raise DemoError(f"{DAG} has not ended after {PATIENCE_SECONDS} s\n{tail(airflow.home / 'scheduler.log')}")
        if tasks.get(MAKE) == "deferred" and now - asked > 1:
            asked = now
            job_id = job_id or airflow.xcom(DAG, run_id, MAKE, "job_id")
            known = job and job.status
            with suppress(ApiframeError):  # the trigger tells what is wrong
                job = api.send(calls.get_job(job_id), retries=0)
                if job.status != known:
                    display.event(f"job {job_id} {job.status}")
        if job and tasks[MAKE] == "deferred":
            percent = int(job.progress or 0)
            display.live(f"[{'#' * (percent // 5):.<20}] {percent} %, no worker slot held")
    return spent


def contact_sheet(path: Path, sheet: Path, columns: int = 3, rows: int = 2) -> Video:
    """Decode all of the video at `path`; save frames of it with their time as a picture at `sheet`.

    Raises `DemoError` when it cannot be decoded or has too few frames.
    """
    frames = 0
    pictures: list[Image.Image] = []
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            seconds = float((container.duration or 0) / av.time_base)
            for frame in container.decode(stream):
                frames += 1
                if frame.time is not None and frame.time >= seconds * len(pictures) / (columns * rows):
                    picture = frame.to_image()
                    picture.thumbnail((480, 480))
                    label = ImageDraw.Draw(picture)
                    label.text((8, 6), f"{frame.time:.1f} s", font_size=20, stroke_width=2, stroke_fill="black")
                    pictures.append(picture)
            video = Video(stream.width, stream.height, seconds, frames, stream.codec_context.name)
    except (av.FFmpegError, IndexError) as error:
        raise DemoError(f"{path} is no video that can be decoded: {error}") from error
    if len(pictures) < columns * rows:
        raise DemoError(f"{path} has {frames} frames only")
    width, height = pictures[0].size
    grid = Image.new("RGB", (columns * width, rows * height))
    for index, picture in enumerate(pictures):
        grid.paste(picture, (index % columns * width, index // columns * height))
    grid.save(sheet)
    return video


def last_words(airflow: LocalAirflow, run_id: str, task_id: str) -> str:
    """Return the warnings and errors in the log of the last try of a task."""
    tries = {ti["task_id"]: ti["try_number"] for ti in airflow.task_instances(DAG, run_id)}
    lines = airflow.log(DAG, run_id, task_id, tries[task_id]).splitlines()
    bad = [line for line in lines if {"warning", "error", "critical"} & set(line.split(" ", 2)[:2])]
    return "\n".join(line[:400] for line in (bad or lines)[-20:])


def check_states(airflow: LocalAirflow, run_id: str) -> None:
    """Raise `DemoError`, with the log of the first task that failed, unless all tasks succeeded."""
    for task, state in states(airflow, run_id).items():
        if state == "failed":
            raise DemoError(f"{task} failed\n{last_words(airflow, run_id, task)}")
        if state != "success":
            raise DemoError(f"{task} ended as {state}")


def demo() -> None:
    """Run the example DAG once, and check what came of it.

    Raises `DemoError` or `LocalAirflowError` unless all of it is as it should be.
    """
    with (
        apiframe("this video") as settings,
        airflow_with(settings, OUTPUT / "demo") as airflow,
        Client(settings) as api,
    ):
        os.environ["no_proxy"] = airflow.environment["no_proxy"]
        run_id = airflow.trigger(DAG)
        spent = watch(airflow, run_id, api)
        held = spent["queued"] + spent["running"]
        check_states(airflow, run_id)
        job = airflow.xcom(DAG, run_id, MAKE, "job")
        stored = airflow.xcom(DAG, run_id, MAKE)
        saved, sheet = OUTPUT / "video.mp4", OUTPUT / "contact-sheet.png"
        shutil.copyfile(stored.removeprefix("file://"), saved)
        video = contact_sheet(saved, sheet)
        real = "APIFRAME_API_KEY" in os.environ
        report = {
            **states(airflow, run_id),
            "URL": job["url"] if real else f"{job['url']} (ends with the sandbox)",
            "stored at": f"{stored} (by {MAKE} itself)",
            "video": f"{saved} ({video.width} x {video.height}, {video.seconds:.2f} s, {video.frames} frames, "
            f"{video.codec})",
            "contact sheet": sheet,
            "logs": airflow.home,
            "credits": job["credits"] if real else f"{job['credits']} (the sandbox's, worth nothing)",
            "worker slot": f"held for {held:.1f} s (of which {MAKE} ran {spent['running']:.1f} s), "
            f"free for {spent['deferred']:.1f} s while it waited",
            "": f"(by its state, looked at every {SAMPLE_SECONDS} s: queued and running, deferred)",
        }
        print("\n" + "\n".join(f"{name:14} {value}" for name, value in report.items()))
    if min(video.width, video.height) != int(job["resolution"].rstrip("p")):
        raise DemoError(f"{saved} is {video.width} x {video.height}, {job['resolution']} was asked for")
    if abs(video.seconds - job["duration"]) > 0.5:
        raise DemoError(f"{saved} is {video.seconds:.2f} s long, {job['duration']} s were asked for")
    if not spent["deferred"]:
        raise DemoError(f"{MAKE} did not wait in the triggerer: {dict(spent)}")


def stay() -> None:
    """Run an Airflow until somebody ends it."""
    with apiframe("every video that you trigger") as settings, airflow_with(settings, OUTPUT / "airflow") as airflow:
        print(f"Trigger {DAG}, and see its video under {airflow.url}/plugin/hailuo. Ctrl-C ends it.", flush=True)
        while True:
            airflow.check()
            time.sleep(1)


def main() -> int:
    """Do what the command line says; return the exit status."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--stay", action="store_true", help="trigger nothing, run until Ctrl-C")
    try:
        with exit_on_signals():
            (stay if parser.parse_args().stay else demo)()
    except KeyboardInterrupt:
        print("\nEnded.", file=sys.stderr)
        return 130
    except (DemoError, LocalAirflowError, ApiframeError) as error:
        print(f"\nNot as it should be: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
