"""wtours: from a list of URLs of long first-person videos to a trained image encoder.

The command line is `wtours` (module `wtours.cli`); what a trainer reads is `wtours.shards`.
"""

__version__ = "0.1.0"
__all__ = ["__version__"]
