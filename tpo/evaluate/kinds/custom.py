"""An evaluation of the user's own: a class with `measure` (`tpo.evaluate.measure.EvaluationConfig`)."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tpo.config.custom import Custom
from tpo.config.fields import setting
from tpo.evaluate.measure import EvaluationConfig, EvaluationError

if TYPE_CHECKING:
    from tpo.evaluate.steps import Evaluation


@dataclass
class CustomEval(Custom, EvaluationConfig):
    """A class whose `measure(steps, path)` returns its part of the summary."""

    needs: ClassVar[tuple[str, ...]] = ("measure",)

    kind: str = setting("custom")

    def measure(self, steps: "Evaluation", path: Path) -> dict[str, Any]:
        """Return what the class measures.

        Raises:
            EvaluationError: If that cannot be written as JSON.
        """
        found = self.create().measure(steps, path)
        try:
            plain: dict[str, Any] = dict(json.loads(json.dumps(found)))
        except (TypeError, ValueError) as error:
            raise EvaluationError(
                f"eval._target_={self._target_}: measure() returned what JSON has no form for ({error}); expected a "
                "dictionary of numbers, texts, lists and dictionaries"
            ) from error
        return plain
