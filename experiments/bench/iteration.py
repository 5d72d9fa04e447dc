"""One whole iteration, in seconds from the start of the first process: sample, score, pairs, train.

Against the script from stock parts (`stock_pipeline.py`): the same instructions, K, budgets of thought and response,
reward model, pairs per step and epochs. Start-up counts, of vLLM too; preparing the seed model, once for all
iterations, does not. Responses are drawn, so the numbers of pairs can differ by a few; both are recorded.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

from experiments.bench.parts import Part, Timed
from experiments.bench.process import REPOSITORY, Request, serve
from experiments.bench.scoring import reward_model_overrides
from experiments.bench.workload import Work

PART = Part(
    name="iteration",
    title="one iteration (s)",
    is_rate=False,
    contenders={
        "stock": "vLLM, reward model at batch size 1, trl DPOTrainer",
        "ours": "ours",
    },
    comparisons=(("ours", "stock"),),
)


def measure(request: Request) -> Timed:
    """Go through an iteration with the contender; its seconds count from the start of this process."""
    work = Work.of(request.work)
    run = with_ours if request.contender == "ours" else with_stock_parts
    details = run(work, request.folder, seed=request.seed)
    seconds = time.time() - request.launched
    return Timed(seconds, seconds, request.launched, details)


def with_stock_parts(work: Work, folder: Path, *, seed: int) -> dict[str, object]:
    """Run the three scripts one after the other; return the seconds of each and the number of pairs."""
    import importlib.util

    if importlib.util.find_spec("vllm") is None:
        raise ModuleNotFoundError("no vllm", name="vllm")
    work_path = folder / "work.json"
    work_path.write_text(json.dumps(work.__dict__))
    stages = {}
    for step in ("sample", "score", "train"):
        started = time.perf_counter()
        command = [sys.executable, "-m", "experiments.bench.stock_pipeline", step, str(work_path), str(folder)]
        if subprocess.run([*command, str(seed)], cwd=REPOSITORY).returncode != 0:
            sys.exit(f"the step {step} of the stock parts failed")
        stages[step] = time.perf_counter() - started
    return {"stages_s": stages, "num_pairs": len((folder / "pairs.jsonl").read_text().splitlines())}


def with_ours(work: Work, folder: Path, *, seed: int) -> dict[str, object]:
    """Run the stages of one iteration in an empty store; return the seconds of each and the number of pairs."""
    from tpo.pipeline import Pipeline
    from tpo.store.open import open_store

    root = folder / "artifacts"
    root.mkdir()
    for model in Path(work.artifacts_dir).resolve().glob("model-*"):  # which is prepared once for all runs
        (root / model.name).symlink_to(model)
    sizes = work.sizes
    config = work.config(
        f"seed={seed}",
        f"artifacts_dir={root}",
        f"prompts.num_train={sizes.num_instructions}",
        f"sample.max_thought_tokens={sizes.max_tokens // 2}",
        f"sample.max_response_tokens={sizes.max_tokens // 2}",
        "pairs.length_penalty=0",
        f"train.num_epochs={sizes.iteration_epochs}",
        *reward_model_overrides(work),
    )
    with open_store(root) as store:
        pipeline = Pipeline(config, store)
        completions = pipeline.sample(pipeline.seed_policy, 1)
        pairs = pipeline.pairs(completions, pipeline.judge(completions))
        pipeline.train(pipeline.seed_policy, pairs, 1)
        stages = {artifact.manifest["stage"]: artifact.seconds for artifact in store.asked if not artifact.is_reused}
    return {"stages_s": stages, "num_pairs": pairs.metrics["num_pairs"]}


if __name__ == "__main__":
    serve(measure)
