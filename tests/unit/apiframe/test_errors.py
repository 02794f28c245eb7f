from __future__ import annotations

import copy
import pickle

import pytest

from airflow_provider_hailuo.apiframe import errors


def test_an_error_tells_status_request_and_job_as_far_as_they_are_known():
    error = errors.ServerError("no available capacity", status=503, request_id="req_1", job_id="job-1")

    assert str(error) == "no available capacity (HTTP 503, request req_1, job job-1)"
    assert error.without_job() == "no available capacity (HTTP 503, request req_1)"
    assert str(errors.NetworkError("connection refused")) == "connection refused"


@pytest.mark.parametrize("clone", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])
def test_an_error_survives_being_copied_and_pickled(clone):
    error = clone(errors.InsufficientCreditsError("too few", required=10, available=3, status=402))

    assert (str(error), error.required, error.available) == ("too few (HTTP 402)", 10, 3)


def test_unless_it_says_otherwise_an_error_is_not_of_the_api_and_not_in_doubt():
    error = errors.NotFoundError("gone")

    assert (error.from_api, error.in_doubt) == (False, False)
    error = copy.copy(errors.ServerError("out of order", from_api=True, in_doubt=True))
    assert (error.from_api, error.in_doubt) == (True, True)


def test_credentials_that_cannot_be_had_are_no_wrong_input():
    assert not issubclass(errors.CredentialsUnavailableError, errors.InvalidInputError)
    assert not errors.CredentialsUnavailableError.transient


def test_however_many_problems_there_are_they_are_one_line_of_bounded_length():
    error = errors.InvalidInputError.of(*(("a\nfield", "x", "wrong") for _ in range(1000)))

    assert str(error).startswith("a\\nfield: 'x': wrong; a")
    assert len(str(error)) == 2000


def test_an_excerpt_is_one_printable_line_of_bounded_length():
    assert errors.excerpt("a\nb\r\x1b[31m\u2028c") == "a\\nb\\r\\x1b[31m\\u2028c"
    assert errors.excerpt(b"\xff\xfe") == "\ufffd\ufffd"
    assert errors.excerpt("가나다") == "가나다"
    assert len(errors.excerpt("x" * 10_000)) == errors.EXCERPT_CHARACTERS
    assert len(errors.excerpt("\n" * 10_000)) == errors.EXCERPT_CHARACTERS
    assert errors.excerpt("x" * errors.EXCERPT_CHARACTERS) == "x" * errors.EXCERPT_CHARACTERS
