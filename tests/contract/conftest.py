"""What the contract suites share: `tests/` on the path, and the contract's asserts shown by pytest."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.register_assert_rewrite("penstock.testing.store_contract")
sys.path.insert(0, str(Path(__file__).parent.parent))
