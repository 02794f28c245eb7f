"""The receiver of the API's webhooks."""

from fastapi import APIRouter

router = APIRouter()
