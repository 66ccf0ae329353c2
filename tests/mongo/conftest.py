from __future__ import annotations

from tests.faults.conftest import (  # noqa: F401 - fixtures and hooks
    pytest_runtest_logreport,
    pytest_terminal_summary,
    serve,
    token,
)
