"""flashq: a job queue that is as fast as memory and tells the truth about every job."""

from flashq.version import __version__

__all__ = ["__version__"]
