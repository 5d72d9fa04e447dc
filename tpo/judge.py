"""Stage "judge": completions -> one Score each. Passes instruction and response on, never a thought."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tpo.artifacts import grow_rows
from tpo.judges import Candidates, Judge
from tpo.records import Completion, Prompt, Score

VERSION = 1
CHUNK_PROMPTS = 64  # instructions judged together; at most these are lost to a kill


def judge_completions(
    path: Path, prompts: Sequence[Prompt], completions: Sequence[Completion], judge: Judge
) -> dict[str, Any]:
    """Write a score, or the reason for none, for every completion; return what was counted.

    A completion without a response is unscored with its split error as the reason. Equal responses to one
    instruction are judged once.
    """
    from tqdm import tqdm

    texts = {prompt.prompt_id: prompt.text for prompt in prompts}
    groups: dict[str, list[Completion]] = {}
    for completion in completions:
        groups.setdefault(completion.prompt_id, []).append(completion)
    with tqdm(total=len(completions), desc=path.name, unit="response") as progress:

        def compute(prompt_ids: list[str]) -> list[Score]:
            candidates = [
                Candidates(texts[key], tuple(dict.fromkeys(row.response for row in groups[key] if row.response)))
                for key in prompt_ids
            ]
            rows = []
            for key, item, judged in zip(prompt_ids, candidates, judge.score(candidates), strict=True):
                found = dict(zip(item.responses, judged, strict=True))
                for row in groups[key]:
                    if row.response:
                        rows.append(Score(key, row.sample_index, *found[row.response]))
                    else:
                        rows.append(Score(key, row.sample_index, None, row.split_error))
            progress.update(len(rows))
            return rows

        scores = grow_rows(path, Score, prompt_ids=list(groups), chunk_size=CHUNK_PROMPTS, compute=compute)
    scored = [score.score for score in scores if score.score is not None]
    return {
        "num_scores": len(scores),
        "num_unscored": len(scores) - len(scored),
        "mean_score": sum(scored) / len(scored) if scored else None,
    }
