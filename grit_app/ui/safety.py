"""Headers of every reply: what a browser may load for the page, and who may show it in a frame.

Gradio's page writes scripts and styles into itself and makes functions of texts, so those stay allowed; nothing else
than this server may be loaded, asked, or sent to.
"""

from __future__ import annotations

import os
from typing import Any, Final

from starlette.datastructures import MutableHeaders

HUB: Final = "https://huggingface.co https://*.hf.space"
"""A Space is shown in a frame of the hub's page, and Gradio loads the script that fits the frame's height."""

HUB_SCRIPTS: Final = "https://cdnjs.cloudflare.com"

ALWAYS: Final = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}


def page_policy(in_space: bool) -> str:
    """The Content-Security-Policy of the page."""
    rules = {
        "default-src": "'self'",
        "script-src": "'self' 'unsafe-inline' 'unsafe-eval' blob:" + (f" {HUB_SCRIPTS}" if in_space else ""),
        "style-src": "'self' 'unsafe-inline'",
        "img-src": "'self' data: blob:",
        "font-src": "'self' data:",
        "media-src": "'self' data: blob:",
        "worker-src": "'self' blob:",
        "connect-src": "'self' data: blob:",
        "object-src": "'none'",
        "base-uri": "'self'",
        "form-action": "'self'",
        "frame-ancestors": f"'self' {HUB}" if in_space else "'self'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


class SafeHeaders:
    """ASGI: adds the headers. Routes for programs get those that do not depend on the page."""

    def __init__(self, app: Any, own_paths: tuple[str, ...] = ()) -> None:
        self.app = app
        self._own_paths = own_paths
        self._policy = page_policy(bool(os.environ.get("SPACE_ID")))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope.get("path", "")
        is_page = not any(path == own or path.startswith(f"{own}/") for own in self._own_paths)

        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in ALWAYS.items():
                    headers.setdefault(name, value)
                if is_page:
                    headers["content-security-policy"] = self._policy
            await send(message)

        await self.app(scope, receive, with_headers)
