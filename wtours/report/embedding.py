"""Pictures and hashes inside a page."""

import base64
import hashlib


def data_url(data: bytes, kind: str) -> str:
    """Return a file as a URL that holds it; `kind` is its media type."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def sha256_base64(text: str) -> str:
    """Return the hash by which a content policy allows a style or a script."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
