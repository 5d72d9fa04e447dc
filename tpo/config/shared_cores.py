"""CPU threads of a sweep's jobs that share a machine: as many as one process alone would take, and none that spins.

A Hydra callback. Sums in floating point depend on the number of threads that share them, and joblib and Ray limit their
workers to fewer than one process would take: the same job would end with other numbers than under Hydra's own launcher.
So jobs that run at a time have more threads than there are cores, unless the user limits them, and OpenMP's threads,
which by default spin for a while when they wait, would take the cores from those that compute (experiments/LOG.md has
how much that costs).
"""

import os
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

# What limits OpenMP (torch), MKL and OpenBLAS (numpy, scipy); joblib sets the others too.
LIMITS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMBA_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
WAIT_POLICY = "OMP_WAIT_POLICY"


class SharedCores(Callback):
    """Gives each job of a sweep the limits of the sweep's own environment, and waits that sleep.

    Outside of sweeps it does nothing.
    """

    def __init__(self) -> None:
        self._limits: dict[str, str] | None = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Remember the limits; every launcher takes this object along to its workers."""
        self._limits = {name: os.environ[name] for name in LIMITS if name in os.environ}
        # joblib's workers load numpy before their first job, and OpenBLAS reads these two then. joblib keeps what is
        # set, and OpenBLAS takes an empty value for no limit.
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            os.environ.setdefault(name, "")

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Put them in place of the launcher's, before the job loads torch and with it OpenMP."""
        if self._limits is None:
            return
        for name in LIMITS:
            os.environ.pop(name, None)
        os.environ.update(self._limits)
        if "OMP_NUM_THREADS" not in self._limits:
            os.environ.setdefault(WAIT_POLICY, "passive")
