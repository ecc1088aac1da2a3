"""Threads that wait leave the cores to the loader."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

CODE = "import sys; import sciencessl, os; print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)"


@pytest.mark.parametrize(("own", "count"), [(None, "30000"), ("7", "7")])
def test_the_spin_count_is_set_before_torch_loads_unless_the_user_did(own: str | None, count: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    environment |= {"GOMP_SPINCOUNT": own} if own else {}
    done = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [count, "False"]
