"""One suite that every storage passes, run against each of them."""

import pytest

pytest.register_assert_rewrite("tests.storage.conformance")
