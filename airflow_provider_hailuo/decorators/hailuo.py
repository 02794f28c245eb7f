"""`@task.hailuo`: a function writes the prompt, the task makes the video."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_provider_hailuo.apiframe import errors
from airflow_provider_hailuo.apiframe.client import Client
from airflow_provider_hailuo.apiframe.models import VideoRequest
from airflow_provider_hailuo.compat import DecoratedOperator, TaskDecorator, determine_kwargs, task_decorator_factory
from airflow_provider_hailuo.operators.hailuo import HailuoGenerateOperator
from airflow_provider_hailuo.operators.submission import Submission, SubmissionStore

if TYPE_CHECKING:
    from airflow_provider_hailuo.compat import Context

REQUEST = "request"
"""The XCom with the fields of the request that the function returned: a worker that resumes has not called it."""

_KNOWN_LATER = "{# what the function returns #}"
"""Renders to nothing, which is no prompt: it cannot be submitted by mistake."""


# In this order the operator's own execute() is the one that is called, so that a trigger may end the task.
class _HailuoDecoratedOperator(HailuoGenerateOperator, DecoratedOperator):
    """Calls the function for what it does not know yet, and is the operator in all else."""

    custom_operator_name: str = "@task.hailuo"
    template_fields: Sequence[str] = (*DecoratedOperator.template_fields, *HailuoGenerateOperator.template_fields)
    # The page "Rendered Templates" is to show the prompt that the function wrote.
    overwrite_rtif_after_execution: bool = True

    _context: Context | None = None
    """That of the try which begins here; None at a resumption."""

    _returned: Any = None
    """The fields of the request that the function returned; whatever else it returned, which is refused; None while
    that is not known."""

    def __init__(self, *, prompt: str = _KNOWN_LATER, **kwargs: Any) -> None:
        super().__init__(prompt=prompt, **kwargs)

    def _execute(self, context: Context, previous: Mapping[str, Any] | None = None) -> str:
        self._context = context
        begun = self._submission_store(context).load()
        # A retry goes on with what was begun, and the function might fail by now.
        if begun is None or begun.max_tries != context["ti"].max_tries:
            self._call()
        return super()._execute(context, previous)

    def _call(self) -> None:
        """Call the function, and take what it returns."""
        context: Any = self._context
        context.update(self.op_kwargs)
        named = determine_kwargs(self.python_callable, self.op_args, context)
        returned = self.python_callable(*self.op_args, **named)
        if isinstance(returned, str):
            returned = {"prompt": returned}
        if isinstance(returned, Mapping):
            returned = self.render_template({str(name): value for name, value in returned.items()}, context)
        self._take(returned)

    def _take(self, returned: Any) -> None:
        self._returned = returned
        if isinstance(returned, dict):
            for name in VideoRequest.model_fields.keys() & returned.keys():
                setattr(self, name, returned[name])

    def _submission_store(self, context: Context) -> SubmissionStore:
        if self._context is None:
            ti = context["ti"]
            self._take(ti.xcom_pull(task_ids=self.task_id, key=REQUEST, map_indexes=ti.map_index))
        return super()._submission_store(context)

    def _request_fields(self) -> dict[str, Any]:
        # With those that the API does not take, which are refused by their name.
        return {**super()._request_fields(), **(self._returned or {})}

    def _current_request(self, contents: Mapping[str, str] | None = None) -> tuple[VideoRequest, str | None]:
        if not isinstance(self._returned, dict):
            name = getattr(self.python_callable, "__name__", "function")
            fields = ", ".join(VideoRequest.model_fields)
            raise errors.InvalidInputError.of(
                (f"{name}()", self._returned, f"must return a prompt, a text, or a dictionary of {fields}")
            )
        return super()._current_request(contents)

    def _new_submission(
        self, ti: Any, submissions: SubmissionStore, client: Client, n: int, salt: str | None
    ) -> Submission:
        if self._returned is None:
            self._call()
        submission = super()._new_submission(ti, submissions, client, n, salt)
        ti.xcom_push(key=REQUEST, value=self._returned)
        return submission


def hailuo_task(
    python_callable: Callable[..., Any] | None = None, *, multiple_outputs: bool = False, **kwargs: Any
) -> TaskDecorator:
    """Make a task of a function that writes the prompt of a video; in a DAG it is `@task.hailuo`.

    The function is called as that of `@task` is, on a worker. It returns the prompt, or a dictionary of fields of the
    request (`prompt`, `model`, `image`, `end_image`, `resolution`, `duration`, `prompt_optimizer`, `webhook_url`,
    `webhook_events`), which go before the arguments of the decorator. Templates in what it returns are rendered:
    wrap text of others in Airflow's `literal`. A retry that goes on with what the task has begun does not call it
    again; before Airflow 3.3 each try does, and pays again if it returns something else.

    The task returns the URL of the video, and its XComs are those of `HailuoGenerateOperator`; `request` is what the
    function returned, as it was rendered. As a function has to be called, the task takes a worker once at least:
    `worker_visits=0` is 1.

    :param python_callable: the function.
    :param multiple_outputs: there is one output, the URL, whatever the annotations of the function say: True is
        refused.
    :param kwargs: the parameters of `HailuoGenerateOperator`, of which none is needed.
    :return: the decorator, or what is called in a DAG to make the task, with `partial`, `expand` and `override`.
    """
    return task_decorator_factory(
        python_callable,
        multiple_outputs=multiple_outputs,
        decorated_operator_class=_HailuoDecoratedOperator,
        **kwargs,
    )
