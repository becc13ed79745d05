"""The license gate: what may be fetched, judged by what the source itself says of the license.

A manifest only claims a license. What the network observes decides: Creative Commons passes,
another license is refused, none needs the user's word and is recorded as unknown. A file that the
user already has passes: nobody is asked for it, and its license stays unknown.
"""

import re

from wtours.errors import PermanentDownloadError

_OPEN = re.compile(
    r"creative commons|creativecommons\.org/|\bcc[ -]?(?:by|0)\b|\bpublic domain\b", re.IGNORECASE
)


def require_open(source: str, license_observed: str | None, *, allow_unknown: bool) -> None:
    """Let a source pass, or say why not.

    YouTube says "Creative Commons Attribution license (reuse allowed)", and nothing of its standard
    license; `allow_unknown`: the user answers for a source that says nothing.

    Raises:
        PermanentDownloadError: it must not be fetched.
    """
    if license_observed is None:
        if not allow_unknown:
            raise PermanentDownloadError(
                f"{source}: it states no license (as under YouTube's standard license); if you "
                f"may use it, add --allow-unknown-license"
            )
    elif not _OPEN.search(license_observed):
        raise PermanentDownloadError(
            f"{source}: its license is {license_observed!r}, not Creative Commons; ask its owner, "
            f"and give the file itself: --from-dir DIR"
        )
