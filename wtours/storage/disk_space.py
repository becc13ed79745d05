"""The former name of `wtours.storage.os_errors`."""

from wtours.storage.os_errors import explain_os_errors as explain_full_disk

__all__ = ["explain_full_disk"]
