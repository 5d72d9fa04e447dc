"""Scoring: K responses to each instruction, in responses per second.

Two judges: a reward model (a sequence classifier with the seed model's weights and a random head), and the seed model's
own yes or no. Each by transformers' forward on one chat at a time in the given order, and by ours. Rendering the chats
is part of the work. The check: equal scores, in float32 and in 16 bits, where beside it stands what 16 bits do to each.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from experiments.bench.floors import scoring_load
from experiments.bench.parts import Part, Timed
from experiments.bench.process import Request, serve, start_clock
from experiments.bench.sampling import policy
from experiments.bench.workload import Work
from tpo.model.architecture import Architecture

PART = Part(
    name="scoring",
    title="scoring (responses/s)",
    is_rate=True,
    contenders={
        "one_at_a_time": "reward model, batch size 1",
        "ours": "reward model, ours",
        "rating_one_at_a_time": "yes or no, batch size 1",
        "rating_ours": "yes or no, ours",
    },
    comparisons=(("ours", "one_at_a_time"), ("rating_ours", "rating_one_at_a_time")),
    checks={
        "reward, float32": ("one_at_a_time_float32", "ours_float32"),
        "reward, bfloat16": ("one_at_a_time", "ours"),
        "reward, bfloat16 against float32, batch size 1": ("one_at_a_time_float32", "one_at_a_time"),
        "reward, bfloat16 against float32, ours": ("ours_float32", "ours"),
        "yes or no, float32": ("rating_one_at_a_time_float32", "rating_ours_float32"),
        "yes or no, bfloat16": ("rating_one_at_a_time", "rating_ours"),
        "yes or no, bfloat16 against float32, batch size 1": ("rating_one_at_a_time_float32", "rating_one_at_a_time"),
        "yes or no, bfloat16 against float32, ours": ("rating_ours_float32", "rating_ours"),
    },
)

Chat = Callable[[str, str], list[int]]  # instruction, response -> token ids that a judge reads
# Instruction and responses -> their scores.
Scorer = Callable[[list[Any]], list[float]]


def measure(request: Request) -> Timed:
    """Score with the contender."""
    from tpo.store.execute import keep_freed_memory

    work = Work.of(request.work)
    contender = request.contender.removesuffix("_float32")
    dtype = "float32" if request.contender.endswith("_float32") else "bfloat16"
    is_rating = contender.startswith("rating_")
    chat = rating_chat(work) if is_rating else reward_chat(work)
    with ExitStack() as stack:
        if contender.endswith("ours"):
            keep_freed_memory()
            judge = stack.enter_context(our_judge(work, dtype, is_rating=is_rating))
            scorer: Scorer = lambda items: [float(one.value) for group in judge.score(items) for one in group]  # noqa: E731
        else:
            scorer = one_rating_at_a_time(work, dtype, chat) if is_rating else one_chat_at_a_time(work, dtype, chat)
        return timed(request, work, chat, scorer)


def timed(request: Request, work: Work, chat: Chat, scorer: Scorer) -> Timed:
    """Score the work's responses once, after a warm-up."""
    from tpo.judge.protocol import Candidates

    responses: dict[str, list[str]] = {}
    for row in work.completions():
        if row.response:
            responses.setdefault(row.prompt_id, []).append(row.response)
    texts = {prompt.prompt_id: prompt.text for prompt in work.prompts()}
    candidates = [Candidates(texts[key], tuple(found)) for key, found in responses.items()]
    scorer([Candidates("Say something.", ("Something.", "Something else."))])
    clock = start_clock(request)
    scores = scorer(candidates)
    seconds = clock.seconds
    groups = [[chat(item.instruction, response) for response in item.responses] for item in candidates]
    lengths = [len(ids) for group in groups for ids in group]
    details = {
        "num_responses": len(scores),
        "num_instructions": len(candidates),
        "num_tokens": sum(lengths),
        **scoring_load(Architecture.of_model(work.model_path), groups)._asdict(),
    }
    return Timed(len(scores) / seconds, seconds, clock.began, details, scores)


def our_judge(work: Work, dtype: str, *, is_rating: bool) -> Any:
    """Open our judge with the settings of conf/, in as many processes as a run has."""
    from tpo.judge.spread import open_judge

    overrides = ["judge=self_rating"] if is_rating else [*reward_model_overrides(work), f"judge.dtype={dtype}"]
    settings = work.config(*overrides).judge
    return open_judge(settings, policy=replace(policy(work), dtype=dtype), answers_path=Path("answers.sqlite"))


def reward_model_overrides(work: Work) -> tuple[str, ...]:
    """Return what selects the work's reward model as judge."""
    return ("judge=reward_model", f"judge.name={work.classifier}", "judge.revision=null")


def reward_chat(work: Work) -> Chat:
    """Return how the reward model reads a response."""
    from tpo.judge.judges.reward_model import chat_with_response
    from tpo.model.chat import load_tokenizer
    from tpo.model.conventions import Conventions

    return partial(chat_with_response, load_tokenizer(work.classifier), conventions=Conventions())


def rating_chat(work: Work) -> Chat:
    """Return how the seed model is asked about a response."""
    from tpo.model.chat import chat_ids, load_tokenizer

    question, tokenizer = work.config("judge=self_rating").judge.question, load_tokenizer(work.tokenizer_path)

    def chat(instruction: str, response: str) -> list[int]:
        return chat_ids(tokenizer, question.replace("{response}", response).replace("{instruction}", instruction))

    return chat


def one_chat_at_a_time(work: Work, dtype: str, chat: Chat) -> Scorer:
    """Return the reward model as its card would have it used: chat template, forward, logit, one response each."""
    import torch
    from transformers import AutoModelForSequenceClassification

    from tpo.model.load import default_device

    model = AutoModelForSequenceClassification.from_pretrained(work.classifier, dtype=getattr(torch, dtype)).eval()
    model.to(default_device())

    @torch.inference_mode()
    def score(items: list[Any]) -> list[float]:
        return [
            float(model(input_ids=torch.tensor([chat(item.instruction, text)], device=model.device)).logits[0, 0])
            for item in items
            for text in item.responses
        ]

    return score


def one_rating_at_a_time(work: Work, dtype: str, chat: Chat) -> Scorer:
    """Return the log-odds of yes, from the logits after each question."""
    import torch
    from transformers import AutoModelForCausalLM

    from tpo.model.chat import answer_ids, load_tokenizer
    from tpo.model.load import default_device

    settings = work.config("judge=self_rating").judge
    model = AutoModelForCausalLM.from_pretrained(work.model_path, dtype=getattr(torch, dtype)).eval()
    model.to(default_device())
    tokenizer = load_tokenizer(work.tokenizer_path)
    yes, no = answer_ids(tokenizer, positive=settings.positive, negative=settings.negative)

    @torch.inference_mode()
    def score(items: list[Any]) -> list[float]:
        scores = []
        for item in items:
            for text in item.responses:
                ids = torch.tensor([chat(item.instruction, text)], device=model.device)
                logits = model(input_ids=ids, logits_to_keep=1).logits[0, -1].float()
                scores.append(float(logits[yes] - logits[no]))
        return scores

    return score


if __name__ == "__main__":
    serve(measure)
