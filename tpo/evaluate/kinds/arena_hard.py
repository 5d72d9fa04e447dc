"""Arena-Hard: two games a question against the benchmark's own answers."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tpo.config.fields import setting
from tpo.evaluate.benchmarks import Benchmark
from tpo.evaluate.benchmarks.kind import BenchmarkEval, open_benchmark
from tpo.evaluate.measure import EvaluationError, ids, lengths, require_one_sample
from tpo.judge.judges.llm_pairwise import PairwiseLLMJudge
from tpo.judge.responses import visible
from tpo.store.records import Completion, Verdict

if TYPE_CHECKING:
    from tpo.evaluate.steps import Evaluation


@dataclass
class ArenaHardEval(BenchmarkEval):
    """Which of the two benchmarks of this name, and whose answers a policy plays against."""

    kind: str = setting("arena_hard")
    version: str = setting(choices=("v0.1", "v2.0"))
    path: str | None = setting(None, is_file=True)
    answers_path: str | None = setting(None, is_file=True)
    reference: str = setting()

    def check(self, at: str) -> None:
        """Check that there is one answer to each instruction."""
        require_one_sample(self, at)

    @classmethod
    def read(cls, config: Mapping[str, Any], paths: Mapping[str, Path], *, seed: int) -> Benchmark:
        """Return the benchmark, of files or the Hub."""
        from tpo.evaluate.benchmarks import arena_hard

        return arena_hard.load(
            paths.get("path"),
            answers_path=paths.get("answers_path"),
            baseline=config["reference"],
            version=config["version"],
        )

    def measure(self, steps: "Evaluation", path: Path) -> dict[str, Any]:
        """Return the score; writes `model_answer.jsonl` and `model_judgment.jsonl` for the official scripts."""
        from tpo.evaluate.benchmarks import arena_hard as benchmark_of
        from tpo.evaluate.benchmarks.arena_score import arena_score, arena_score_v2, complete_verdicts

        if steps.config.baseline is not None:
            raise EvaluationError(
                "eval=arena_hard: the score is against the benchmark's own answers; set baseline=null"
            )
        artifact = steps.benchmark(
            {
                "name": "arena_hard",
                "path": self.path,
                "answers_path": self.answers_path,
                "reference": self.reference,
                "version": self.version,
            }
        )
        answers = steps.answers(steps.policy, artifact)
        both = {"prompts": artifact, "completions_0": answers, "references": artifact}
        verdicts = steps.judging.verdicts(both, pairs="matched")
        benchmark, responses = open_benchmark(artifact), list(visible(answers.rows(Completion)))
        games = complete_verdicts(list(verdicts.rows(Verdict)), benchmark, responses, no_response=self.no_response)
        assert isinstance(steps.config.judge, PairwiseLLMJudge)  # checked by tpo.config.check
        model, judge = steps.policy.name, str(steps.config.judge.name)
        benchmark_of.write_answers(path / "model_answer.jsonl", benchmark, responses, model=model)
        benchmark_of.write_judgements(path / "model_judgment.jsonl", benchmark, games, model=model, judge=judge)
        seed, confidence = steps.seed("arena"), self.confidence
        if self.version == "v2.0":
            score = arena_score_v2(games, baseline=self.reference, seed=seed, confidence=confidence)
        else:
            score = arena_score(games, seed=seed, confidence=confidence)
        return {
            "prompts": artifact.artifact_id,
            **score.to_dict(),
            **lengths(answers),
            **ids(answers, verdicts),
        }
