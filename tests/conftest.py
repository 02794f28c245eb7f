"""What all tests share: an Airflow home of their own, and nothing that leads beyond loopback."""

from __future__ import annotations

import os
import tempfile

# Airflow reads these while it is imported.
os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="hailuo-tests-")
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
    os.environ.pop(name, None)
    os.environ.pop(name.lower(), None)

# Without a connection the file system of S3 goes on with what the machine knows of AWS.
os.environ.update(
    AWS_ENDPOINT_URL="http://127.0.0.1:9",
    AWS_EC2_METADATA_DISABLED="true",
    AWS_CONFIG_FILE=os.devnull,
    AWS_SHARED_CREDENTIALS_FILE=os.devnull,
)

import airflow  # noqa: E402

if airflow.__version__.startswith("2."):
    # A hook alone, in no DAG, meets half-configured database models there.
    from airflow.models import import_all_models

    import_all_models()
