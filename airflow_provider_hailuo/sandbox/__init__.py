"""A local Apiframe: same contract, real MP4 files, no key and no credits.

`Sandbox` runs it inside a process, the command `hailuo-sandbox` on its own. Both need the extra:
`pip install "airflow-provider-hailuo[sandbox]"`.

Imports point one way: `video` and `faults` know none of the others, `state` uses `video`, `http` uses `state` and
`faults`, `server` runs `http`, and `cli` runs `server`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_provider_hailuo.sandbox.server import Sandbox as Sandbox

__all__ = ["Sandbox"]


def __getattr__(name: str) -> Any:
    # Imported late, so that the package itself imports without the extra, and says what to install.
    if name != "Sandbox":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from airflow_provider_hailuo.sandbox.server import Sandbox  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ImportError(
            f'The sandbox needs {error.name}: pip install "airflow-provider-hailuo[sandbox]"'
        ) from error
    return Sandbox
