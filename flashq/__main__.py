"""`python -m flashq`: the command line, without its script."""

from __future__ import annotations

import sys

from flashq.cli.main import main

sys.exit(main())
