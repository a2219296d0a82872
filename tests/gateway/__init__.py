"""The gateway's doors in front of a real server, through clients like those that exist."""

import pytest

pytest.register_assert_rewrite("tests.gateway.scenarios", "tests.gateway.steps")
