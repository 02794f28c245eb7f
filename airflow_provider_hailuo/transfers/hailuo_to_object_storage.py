"""`HailuoToObjectStorageOperator`: the video of a job that was submitted elsewhere, into storage of your own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from airflow_provider_hailuo import metrics, xcoms
from airflow_provider_hailuo.apiframe import errors
from airflow_provider_hailuo.apiframe.models import is_http_url, is_nothing
from airflow_provider_hailuo.apiframe.polling import video_url
from airflow_provider_hailuo.compat import BaseOperator, Context
from airflow_provider_hailuo.exceptions import Situation, explained
from airflow_provider_hailuo.hooks.hailuo import HailuoHook
from airflow_provider_hailuo.lineage import openlineage_facets, report
from airflow_provider_hailuo.links.hailuo import HailuoVideoLink
from airflow_provider_hailuo.operators.hailuo import RESULT_TIMEOUT_SECONDS
from airflow_provider_hailuo.storage import Destination, IfExists
from airflow_provider_hailuo.task_instance import has_retries_left, task_instance_key

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import OperatorLineage


class HailuoToObjectStorageOperator(BaseOperator):
    """Stores the video of a finished job and returns the URI of the file.

    It submits nothing and pays nothing: it may be retried and cleared at will. The API keeps files for 24 hours by
    default (Apiframe reference, "Get a job").

    XComs: `return_value` is the URI; `job` tells all of the job, with `uri`, `bytes` and `sha256`.

    :param job_id: the job, as `video.output["job_id"]` or the output of `HailuoGenerateOperator` with
        `wait_for_completion=False`; templated.
    :param destination: where to store it: a URL that Airflow's ObjectStoragePath takes, as `s3://bucket/{{ ds }}/`,
        or an absolute path; if it ends with `/`, the file is `<job id>.mp4`; templated.
    :param destination_conn_id: the Airflow connection of that storage; None (default): what the environment says;
        templated.
    :param if_exists: what to do with a file that lies there: `skip` (default) fetches nothing if it is the same video
        and replaces any other; `overwrite` replaces it in any case; `fail` replaces no other file.
    :param metadata: whether to store `<name>.json` beside it (default no): prompt, job, credits, sha256, DAG, run and
        so on.
    :param poster: whether to store the first frame as `<name>.jpg` beside it (default no; needs the extra `poster`).
    :param hailuo_conn_id: the Airflow connection of the API (default `hailuo_default`); templated.
    :raises HailuoFailException: which Airflow does not retry: a parameter will not do, or the file has been purged.
    :raises HailuoException: for everything else.
    """

    _lineage: tuple[Mapping[str, Any] | None, str] = (None, "")
    template_fields: Sequence[str] = ("job_id", "destination", "destination_conn_id", "hailuo_conn_id")
    operator_extra_links = (HailuoVideoLink(),)
    ui_color: str = "#e8e4fb"

    def __init__(
        self,
        *,
        job_id: str,
        destination: str,
        destination_conn_id: str | None = None,
        if_exists: IfExists = "skip",
        metadata: bool = False,
        poster: bool = False,
        hailuo_conn_id: str = HailuoHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.job_id = job_id
        self.destination = destination
        self.destination_conn_id = destination_conn_id
        self.if_exists = if_exists
        self.metadata = metadata
        self.poster = poster
        self.hailuo_conn_id = hailuo_conn_id

    def execute(self, context: Context) -> str:
        """Fetch the video and put it there.

        :param context: the context of the running task.
        :return: the URI of the file.
        :raises HailuoFailException: a parameter will not do, or the file has been purged.
        :raises HailuoException: for everything else.
        """
        ti = context["ti"]
        hook = HailuoHook(self.hailuo_conn_id)
        tags = metrics.task_tags(ti, hook.hailuo_conn_id)
        try:
            destination = Destination.of(self, self.destination)
            if is_nothing(self.job_id) or is_http_url(str(self.job_id)):
                problem = "must be the id of a job, as the XCom 'job_id' tells it"
                raise errors.InvalidInputError.of(("job_id", self.job_id, problem))
            destination.check()
            job = hook.wait_for_job(self.job_id, timeout=RESULT_TIMEOUT_SECONDS)
            tags = metrics.task_tags(ti, hook.hailuo_conn_id, job.model)
            video_url(job)  # raises, if there is none
            facts = xcoms.job_facts(job)
            settings = hook.get_settings()
            stored = destination.store(facts, task_instance_key(ti), allow_local=settings.is_local)
            facts |= asdict(stored)
            ti.xcom_push(key=xcoms.JOB, value=facts)
            metrics.count(metrics.BYTES_STORED, tags, stored.bytes)
            report(context, self.outlets, facts, hook)
        except errors.ApiframeError as error:
            metrics.failed(error, tags)
            situation = Situation(hook.hailuo_conn_id, tries_left=has_retries_left(ti), watches=True)
            raise explained(error, situation) from None
        self._lineage = facts, settings.base_url
        return stored.uri

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> OperatorLineage[Any, Any]:  # noqa: ARG002
        """Return what OpenLineage is to know: the job, and where its video was stored.

        :param task_instance: the task instance, which is not looked at.
        :return: the facets.
        """
        return openlineage_facets(*self._lineage)
