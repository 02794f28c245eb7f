"""What the API server serves below `/hailuo`."""

from fastapi import FastAPI

from airflow_provider_hailuo.plugins import webhooks

app = FastAPI(title="Hailuo", docs_url=None, redoc_url=None, openapi_url=None)
app.include_router(webhooks.router)
