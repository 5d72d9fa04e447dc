"""As many CPU threads in a sweep's jobs as in the process that started it, whatever the launcher would give them.

A Hydra callback. Sums in floating point depend on the number of threads that share them, and joblib and Ray limit their
workers to fewer than one process would take: the same job would end with other numbers than under Hydra's own launcher.
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


class SameThreads(Callback):
    """Gives each job of a sweep the limits that the sweep's own environment has. Outside of sweeps it does nothing."""

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
        """Put them in place of the launcher's, before the job loads torch."""
        if self._limits is None:
            return
        for name in LIMITS:
            os.environ.pop(name, None)
        os.environ.update(self._limits)
