"""The files of the sandbox on disk: videos, made when they are first asked for, and uploads."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType

from airflow_provider_hailuo.sandbox.state.jobs import Job
from airflow_provider_hailuo.sandbox.video.encoder import write_video


class Files:
    """A temporary directory for videos and uploads, and the threads that render.

    A context manager: at its end the threads are joined and the directory is removed.
    """

    def __init__(self) -> None:
        self._videos: dict[str, Future[Path]] = {}

    def __enter__(self) -> Files:
        self._directory = TemporaryDirectory(prefix="hailuo-sandbox-")
        self._threads = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="hailuo-sandbox-render")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(cancel_futures=True)
        self._directory.cleanup()

    async def video(self, job: Job) -> Path:
        """Return the video of a job; the first call has it rendered, others meanwhile wait for it.

        :param job: the job, which is COMPLETED.
        :return: the path of the MP4 file.
        """
        video = self._videos.get(job.id)
        if video is None:
            video = self._videos[job.id] = self._threads.submit(self._render, job)
        try:
            # One caller who goes away must not take the video from the others.
            return await asyncio.shield(asyncio.wrap_future(video))
        except Exception:
            self._videos.pop(job.id, None)
            raise

    def discard_video(self, job_id: str) -> None:
        """Delete the video of a job, if there is one.

        :param job_id: the id of the job.
        """
        if self._videos.pop(job_id, None):
            self._video_path(job_id).unlink(missing_ok=True)

    async def store_upload(self, upload_id: str, content: bytes) -> None:
        """Write the file of an upload.

        :param upload_id: the id of the upload.
        :param content: what was uploaded.
        """
        await asyncio.to_thread(self.upload_path(upload_id).write_bytes, content)

    def discard_upload(self, upload_id: str) -> None:
        """Delete the file of an upload.

        :param upload_id: the id of the upload.
        """
        self.upload_path(upload_id).unlink(missing_ok=True)

    def upload_path(self, upload_id: str) -> Path:
        """Tell where the file of an upload is.

        :param upload_id: the id of the upload.
        :return: the path.
        """
        return Path(self._directory.name, f"upload-{upload_id}")

    def _video_path(self, job_id: str) -> Path:
        return Path(self._directory.name, f"{job_id}.mp4")

    def _render(self, job: Job) -> Path:
        path = self._video_path(job.id)
        request = job.request
        write_video(
            path,
            seed=job.id,
            title=request.prompt,
            left=f"{request.model} · {request.resolution} · {request.duration} s",
            right=job.id,
            resolution=request.resolution,
            seconds=request.duration,
        )
        return path
