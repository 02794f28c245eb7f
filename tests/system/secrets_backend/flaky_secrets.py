"""A secrets backend that can be taken away: it holds one connection, as long as the file HAILUO_SECRET is there."""

from __future__ import annotations

import os
from pathlib import Path

from airflow.secrets import BaseSecretsBackend


class FlakySecrets(BaseSecretsBackend):
    """Knows the connection `hailuo_secret`; a look-up that fails is noted in the directory HAILUO_DEATHS."""

    def get_conn_value(self, conn_id: str) -> str | None:
        """Return the connection as JSON."""
        if conn_id != "hailuo_secret":
            return None
        secret = Path(os.environ["HAILUO_SECRET"])
        if not secret.exists():
            Path(os.environ["HAILUO_DEATHS"], f"look-up-{os.getpid()}-{os.urandom(8).hex()}").touch()
            raise ConnectionError("the secrets backend is throttled")
        return secret.read_text()
