"""The four clients of tritonclient behind one call, so that a test asks all of them the same."""

import asyncio
import inspect
from typing import Any

import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio

FORMS = ("http", "http.aio", "grpc", "grpc.aio")


class Client:
    """Calls one form of client; a method of the client is a method of this."""

    def __init__(self, form: str, url: str, **options: Any) -> None:
        self.form = form
        self.module = tritonclient.http if form.startswith("http") else tritonclient.grpc
        self._url = url
        self._options = options

    @property
    def http(self) -> bool:
        return self.module is tritonclient.http

    def output(self, name: str, **options: Any) -> Any:
        return self.module.InferRequestedOutput(name, **(options if self.http else {}))

    def __getattr__(self, method: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            if not self.form.endswith("aio"):
                with self.module.InferenceServerClient(self._url, **self._options) as client:
                    return getattr(client, method)(*args, **kwargs)
            return asyncio.run(self._call(method, args, kwargs))

        return call

    async def _call(self, method: str, args: Any, kwargs: Any) -> Any:
        async with self.module.aio.InferenceServerClient(self._url, **self._options) as client:
            answer = getattr(client, method)(*args, **kwargs)
            return await answer if inspect.isawaitable(answer) else answer


def status(error: Any) -> str:
    """Return an error's status in the words of gRPC, whichever wire it came by."""
    codes = {
        "400": "INVALID_ARGUMENT",
        "401": "UNAUTHENTICATED",
        "404": "NOT_FOUND",
        "500": "INTERNAL",
        "503": "UNAVAILABLE",
        "504": "DEADLINE_EXCEEDED",
    }
    return codes.get(error.status(), error.status().removeprefix("StatusCode."))
