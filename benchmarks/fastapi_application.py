"""
The FastAPI application behind the workload ``fastapi-json``.
"""

from __future__ import annotations

from fastapi import FastAPI

application = FastAPI(openapi_url=None)


@application.get("/json")
async def hello() -> dict[str, str]:
    """Answer a small JSON object."""
    return {"message": "Hello, world!"}
