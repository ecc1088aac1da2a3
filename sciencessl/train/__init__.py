"""The step (pure), its Lightning host, the run folder and checkpoints."""

import os

# Read by OpenMP when torch loads. Threads that spin while they wait take the cores from loader workers and from each
# other: on two cores with another busy process a step was forty times slower. A value of the user's own is kept.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
