"""Stage "synthesize": new instructions by few-shot prompting a model, as the paper's first experiments did.

The paper prompted Llama-2-70B-Chat with 8 samples of Open Assistant (section 3.1); here any model continues a
numbered list of instructions drawn from a given set. `tpo.sample.sources.synthetic` decides which candidates are used.
"""

import random
import re
from array import array
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from tpo.config.kinds import load_settings
from tpo.model.asked import ask_directly
from tpo.model.chat import load_chat
from tpo.model.policy import Policy, open_policy
from tpo.sample.decoding import Decoding, EngineSettings, Request, longest
from tpo.sample.sources.synthetic import SyntheticPrompts
from tpo.store.job import Job, Metrics
from tpo.store.records import Prompt
from tpo.store.rows import grow_rows
from tpo.store.seeds import derive_seed

REQUEST = (
    "Below is a numbered list of instructions that different users gave to an AI assistant. They are varied in topic "
    "and form. Write only the next instruction of the list.\n\n{shots}\n{number}."
)


def work(job: Job) -> Metrics:
    """Sample candidates, from shots of the built-in instructions or a file of the user's."""
    config = job.config
    return write_candidates(
        job.path,
        open_policy(config, job.inputs),
        settings=load_settings(SyntheticPrompts, config["settings"]),
        engine_settings=load_settings(EngineSettings, config["engine"], job.how["engine"]),
        seed=job.seed,
    )


def write_candidates(
    path: Path, policy: Policy, *, settings: SyntheticPrompts, engine_settings: EngineSettings, seed: int
) -> Metrics:
    """Write the raw candidates as `Prompt` rows to `path`.

    Args:
        path: The artifact's directory.
        policy: The model that continues the list.
        settings: Shots, and how candidates are sampled.
        engine_settings: What samples.
        seed: Of the choice of shots and of sampling.
    """
    chat, shots = load_chat(policy), settings.shots()
    asked = ask_directly(policy.conventions, what="prompts=synthetic")  # the number below would else stand in a thought
    decoding = Decoding(settings.temperature, settings.top_p, settings.max_tokens)
    names = [f"candidate-{number}" for number in range(settings.num_candidates)]
    number = settings.num_shots + 1
    contexts: dict[str, array[int]] = {}
    for name in names:
        drawn = random.Random(derive_seed(seed, name)).sample(shots, settings.num_shots)
        listed = "\n".join(f"{position}. {shot.text}" for position, shot in enumerate(drawn, start=1))
        request = REQUEST.replace("{shots}", listed).replace("{number}", str(number))
        contexts[name] = array("I", asked.context(chat.tokenizer, request, assistant=f"{number}."))
    max_len = longest(contexts.values(), decoding)
    with closing(engine_settings.make(policy, chat=chat, max_len=max_len, seed=seed)) as engine:

        def compute(keys: Sequence[tuple[str]]) -> Iterator[Prompt]:
            requests = (Request(name, contexts[name], {0: derive_seed(seed, "sample", name)}) for (name,) in keys)
            for name, _, generation in engine.stream(requests, decoding=decoding):
                text = chat.tokenizer.decode(generation.token_ids, skip_special_tokens=True)
                source = f"synthetic:{policy.model_path}"
                yield Prompt(name, first_item(text), "uncategorized", source, generation.finish_reason, (), name)

        grow_rows(path, Prompt, keys=[(name,) for name in names], compute=compute, unit="candidate")
    return {"num_candidates": len(names)}


def first_item(text: str) -> str:
    """Return the first item of a continued numbered list, without the numbers or items that follow."""
    return re.split(r"\n\s*\d+[.)](?:\s|$)", text, maxsplit=1)[0].strip()
