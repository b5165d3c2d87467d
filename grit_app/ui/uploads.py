"""Uploads under names of their own.

Gradio 6 files an upload under the hash of its bytes: two visitors with the same file share one path, and whoever is
done with it first takes it from the other. Here each upload's hash begins with random bytes.
"""

from __future__ import annotations

import secrets
from typing import Any

from gradio import route_utils


class PrivateUpload(route_utils.GradioUploadFile):
    """An upload whose place no other upload shares."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sha.update(secrets.token_bytes(16))


def name_uploads_privately() -> None:
    """From now on, in this process."""
    route_utils.GradioUploadFile = PrivateUpload  # type: ignore[misc]
