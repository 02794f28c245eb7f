"""What all tests share: an Airflow home of their own, and no proxy between them and loopback."""

from __future__ import annotations

import os
import tempfile

# Airflow reads these while it is imported.
os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="hailuo-tests-")
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
    os.environ.pop(name, None)
    os.environ.pop(name.lower(), None)

import airflow  # noqa: E402

if airflow.__version__.startswith("2."):
    # A hook alone, in no DAG, meets half-configured database models there.
    from airflow.models import import_all_models

    import_all_models()
