"""The policies of one command: found by name, loaded when they are asked for."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tpo.config.schema import UseEntry
from tpo.evaluate.policies import find_policy
from tpo.evaluate.trained import named_run
from tpo.model.policy import PolicyRef
from tpo.model.stages import require_askable
from tpo.sample.decoding import EngineSettings
from tpo.store.gpus import find_gpus, prepare
from tpo.store.open import open_store
from tpo.store.seeds import derive_seed
from tpo.store.stage import RunsOn
from tpo.store.store import Store
from tpo.use.loaded import LoadedPolicy


class Policies:
    """What `policy=` of a command names, and others beside it."""

    def __init__(self, config: UseEntry, store: Store) -> None:
        """Find the policy, so that one that does not exist or cannot be asked is told before anything is loaded."""
        self._config, self._store = config, store
        self.ref = self._find(config.policy, has_own_settings=False)
        require_askable(self.ref.model, [self.ref.form])

    @property
    def name(self) -> str:
        """What the policy is called: the run and its iteration, or else what `policy` says."""
        return self._name(self._config.policy, self.ref)

    def load(self) -> LoadedPolicy:
        """Load the policy.

        Raises:
            TpoError: If the engine cannot sample from it here.
        """
        return self._load(self.ref)

    def load_other(self, text: str) -> tuple[str, LoadedPolicy]:
        """Load another policy and return what it is called; empty is the policy's own model, untrained.

        Raises:
            TpoError: If there is none of this name, or the engine cannot sample from it beside the first.
        """
        if not text:
            return "seed", self._load(self.ref.seed_model())
        ref = self._find(text, has_own_settings=True)
        require_askable(ref.model, [ref.form])
        return self._name(text, ref), self._load(ref)

    def _load(self, ref: PolicyRef) -> LoadedPolicy:
        assert isinstance(self._config.engine, EngineSettings)
        return LoadedPolicy.load(ref, self._config.engine, seed=derive_seed(self._config.seed, "engine"))

    def _find(self, text: str, *, has_own_settings: bool) -> PolicyRef:
        config = self._config
        return find_policy(
            text,
            self._store,
            model=config.model,
            form=config.thought,
            sample=config.sample,
            has_own_settings=has_own_settings,
        )

    @staticmethod
    def _name(text: str, ref: PolicyRef) -> str:
        return text if named_run(text) is None else ref.name


@contextmanager
def open_policies(config: UseEntry) -> Iterator[Policies]:
    """Yield the policies of a command.

    Raises:
        TpoError: If there is no such policy, or it cannot be asked in its thought format.
    """
    if find_gpus() and config.engine.runs_on != RunsOn.VLLM:
        prepare()  # this process computes, and torch is not imported yet
    with open_store(Path(config.artifacts_dir), isolate=config.isolate_stages) as store:
        yield Policies(config, store)
