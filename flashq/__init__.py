"""flashq: a job queue that is as fast as memory and tells the truth about every job."""

from typing import Final

__version__: Final = "0.1.0"
