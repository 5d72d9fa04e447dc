"""One iteration from stock parts, as public pipelines for iterative DPO do it: three scripts and files between them.

    python -m experiments.bench.stock_pipeline sample|score|train <work.json> <folder>

vLLM samples, first thoughts, then the responses to them; a reward model scores one response at a time; the stock
trainer trains on best against worst with its default settings. What is asked for is what our pipeline is asked for.
"""

import json
import sys
from pathlib import Path
from typing import Any

from experiments.bench.sampling import policy, start_vllm
from experiments.bench.scoring import one_chat_at_a_time, reward_chat
from experiments.bench.training import stock_trainer
from experiments.bench.workload import Work

STEPS = ("sample", "score", "train")


def sample(work: Work, folder: Path, *, seed: int) -> None:
    """Write K thoughts and responses to each instruction."""
    from vllm import SamplingParams

    from tpo.model.chat import load_chat

    chat = load_chat(policy(work))
    form, contexts = work.config().thought, work.contexts(chat.tokenizer, work.prompts())
    switch = chat.tokenizer.encode(form.switch, add_special_tokens=False)
    sizes = work.sizes
    llm = start_vllm(work, max(map(len, contexts)) + sizes.max_tokens + len(switch), seed=seed)
    shared = {"temperature": sizes.temperature, "top_p": sizes.top_p, "max_tokens": sizes.max_tokens // 2}
    thoughts = llm.generate(
        [{"prompt_token_ids": ids} for ids in contexts],
        SamplingParams(n=sizes.num_samples, stop=[form.response_delimiter], **shared),
        use_tqdm=False,
    )
    texts, requests = [], []
    for ids, output in zip(contexts, thoughts, strict=True):
        for found in output.outputs:
            thought = chat.content(list(found.token_ids))
            texts.append(found.text.split(form.response_delimiter)[0] + form.switch)
            requests.append({"prompt_token_ids": [*ids, *thought, *switch]})
    responses = llm.generate(requests, SamplingParams(**shared), use_tqdm=False)
    rows = []
    for position, (prompt, ids) in enumerate(zip(work.prompts(), contexts, strict=True)):
        mine = range(position * sizes.num_samples, (position + 1) * sizes.num_samples)
        rows.append(
            {
                "instruction": prompt.text,
                "prompt": chat.decode(ids),
                "thoughts": [texts[index] for index in mine],
                "responses": [responses[index].outputs[0].text.strip() for index in mine],
            }
        )
    _write(folder / "samples.jsonl", rows)


def score(work: Work, folder: Path, *, seed: int) -> None:
    """Write a pair of best and worst response for each instruction where they differ."""
    from tpo.judge.protocol import Candidates

    scorer = one_chat_at_a_time(work, "bfloat16", reward_chat(work))
    pairs = []
    for row in _read(folder / "samples.jsonl"):
        written = [(thought, text) for thought, text in zip(row["thoughts"], row["responses"], strict=True) if text]
        scores = scorer([Candidates(row["instruction"], tuple(text for _, text in written))])
        ordered = [parts for _, parts in sorted(zip(scores, written, strict=True), key=lambda item: item[0])]
        if ordered and ordered[0][1] != ordered[-1][1]:
            pairs.append({"prompt": row["prompt"], "chosen": "".join(ordered[-1]), "rejected": "".join(ordered[0])})
    _write(folder / "pairs.jsonl", pairs)


def train(work: Work, folder: Path, *, seed: int) -> None:
    """Train and save the adapter."""
    epochs = work.sizes.iteration_epochs
    trainer = stock_trainer(work, _read(folder / "pairs.jsonl"), folder, seed=seed, num_train_epochs=epochs)()
    trainer.train()
    trainer.save_model(str(folder / "adapter"))


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


if __name__ == "__main__":
    step, work_path, target, seed = sys.argv[1:]
    steps = {"sample": sample, "score": score, "train": train}
    steps[step](Work.of(json.loads(Path(work_path).read_text())), Path(target), seed=int(seed))
