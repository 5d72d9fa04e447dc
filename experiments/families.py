"""Which model families are computed rightly in sampling, in training and by the judges that read logits?

python -m experiments.families [family ...]

makes a tiny model of each family, with random weights and a tokenizer of single bytes, and compares what this project
computes with the model's own forward pass in transformers: greedy samples, with an adapter too, with `generate`, the
second step's loss with the loss of the policy after the first step, scores with the logits of whole sequences. A cell
is "equal", with what was given up of the fast path, or "refused", with the sentence below the table, or says what is
wrong. It takes a second or two a family; `families.md` keeps what it printed.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from tpo.config.groups import TEMPLATE_DATE
from tpo.judge.judges.likelihood import Likelihood, SummedLikelihood
from tpo.judge.judges.self_rating import SelfRating, SelfRatingJudge
from tpo.judge.protocol import Candidates
from tpo.model.chat import chat_ids, load_chat, load_tokenizer
from tpo.model.logits import LogitReader
from tpo.model.policy import Policy
from tpo.model.targets import without_adapter
from tpo.model.template_probe import read_conventions
from tpo.results.text_table import TextTable, to_markdown
from tpo.sample.decoding import Decoding, Request
from tpo.sample.engines.torch.engine import TorchEngine
from tpo.store.errors import TpoError
from tpo.store.records import Pair
from tpo.train.dpo import dpo_loss, nll_loss, sequence_logps
from tpo.train.settings import TrainSettings
from tpo.train.trainer import train_on_pairs

EQUAL, REFUSED = "equal", "refused"
TOLERANCE = 2e-3  # nats, in float32, of sums over a dozen tokens
SPECIALS = ("<bos>", "<eos>", "<pad>", "<|user|>", "<|assistant|>", "<|end|>")
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}<|end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
SIZES: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,  # larger than usual, so that distributions are not flat
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
EXPERTS: dict[str, Any] = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2}
LATENT: dict[str, Any] = {
    "kv_lora_rank": 16,
    "q_lora_rank": 24,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 12,
}
GROUPED_EXPERTS: dict[str, Any] = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 2,
    "topk_group": 1,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
}
DELTA: dict[str, Any] = {
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "layer_types": ["linear_attention", "full_attention"],
    "head_dim": 32,
}
MAMBA: dict[str, Any] = {
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_d_state": 16,
    "mamba_d_ssm": 128,
    "mamba_chunk_size": 16,
}
VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
#: transformers' model type to what its configuration needs beside `SIZES`; a tiny model cannot have the usual sizes.
FAMILIES: dict[str, dict[str, Any]] = {
    "apertus": {},
    "arcee": {},
    "bamba": {**MAMBA, "attn_layer_indices": [1]},
    "bloom": {"n_layer": 2, "n_head": 4},
    "cohere": {"logit_scale": 0.25},
    "cohere2": {"logit_scale": 0.25, "sliding_window": 256},
    "deepseek_v2": {
        **LATENT,
        "num_key_value_heads": 4,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
    },
    "deepseek_v3": {**LATENT, **GROUPED_EXPERTS, "num_key_value_heads": 4},
    "ernie4_5": {"head_dim": 16},
    "exaone4": {"sliding_window": 256, "sliding_window_pattern": 2},
    "falcon": {"num_kv_heads": 2, "new_decoder_architecture": True, "alibi": False},
    "falcon_h1": {**MAMBA, "lm_head_multiplier": 0.5},
    "gemma": {"head_dim": 16},
    "gemma2": {"head_dim": 16, "sliding_window": 256, "final_logit_softcapping": 2.0},
    "gemma3_text": {"head_dim": 16, "sliding_window": 256},
    "glm": {"head_dim": 16},
    "glm4": {"head_dim": 16},
    "glm4_moe": {**GROUPED_EXPERTS, "head_dim": 16},
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512, "n_inner": 96},
    "gpt_neo": {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": 256},
    "gpt_neox": {},
    "gpt_oss": {**EXPERTS, "head_dim": 16, "sliding_window": 256},
    "gptj": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512, "rotary_dim": 8},
    "granite": {"logits_scaling": 4.0, "embedding_multiplier": 3.0, "residual_multiplier": 0.5},
    "granitemoe": {**EXPERTS, "logits_scaling": 4.0},
    "granitemoehybrid": {
        **EXPERTS,
        **MAMBA,
        "layer_types": ["mamba", "attention"],
        "shared_intermediate_size": 32,
        "mamba_expand": 2,
    },
    "helium": {"head_dim": 16},
    "hunyuan_v1_dense": {"head_dim": 16},
    "jamba": {
        "num_experts": 2,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "mamba_dt_rank": 4,
        "mamba_d_state": 8,
        "use_mamba_kernels": False,
    },
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_multiple_of": 16},
    "llama": {},
    "llama4_text": {
        **EXPERTS,
        "num_experts_per_tok": 1,
        "head_dim": 16,
        "attention_chunk_size": 256,
        "intermediate_size_mlp": 96,
        "interleave_moe_layer_step": 2,
    },
    "mamba2": {"num_heads": 8, "head_dim": 16, "state_size": 16, "n_groups": 1, "chunk_size": 16},
    "minicpm3": {**LATENT, "num_key_value_heads": 4, "dim_model_base": 16},
    "minimax": {**EXPERTS, "layer_types": ["linear_attention", "full_attention"], "block_size": 16, "head_dim": 16},
    "mistral": {"sliding_window": 256},
    "mixtral": {**EXPERTS},
    "nanochat": {"final_logit_softcapping": 2.0},
    "nemotron": {},
    "olmo2": {},
    "olmo3": {"sliding_window": 256, "layer_types": ["sliding_attention", "full_attention"]},
    "olmoe": {**EXPERTS},
    "opt": {"ffn_dim": 96, "word_embed_proj_dim": 64},
    "phi": {},
    "phi3": {},
    "phimoe": {**EXPERTS},
    "qwen2": {},
    "qwen2_moe": {**EXPERTS, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32},
    "qwen3": {"head_dim": 16},
    "qwen3_5": {"text_config": {**SIZES, **DELTA}},
    "qwen3_moe": {**EXPERTS, "moe_intermediate_size": 32, "head_dim": 16},
    "qwen3_next": {**EXPERTS, **DELTA, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32},
    "recurrent_gemma": {
        "head_dim": 16,
        "lru_width": 64,
        "block_types": ["recurrent", "attention"],
        "attention_window_size": 256,
        "logits_soft_cap": 2.0,
        "num_hidden_layers": 2,
    },
    "seed_oss": {"head_dim": 16},
    "smollm3": {},
    "stablelm": {},
    "starcoder2": {},
    "vaultgemma": {"head_dim": 16, "sliding_window": 256},
}
# The vision-language models among them keep their sizes below `text_config`.
FAMILIES["gemma3"] = {
    "text_config": {**SIZES, "head_dim": 16, "sliding_window": 256},
    "vision_config": VISION,
    "mm_tokens_per_image": 4,
    "boi_token_index": 10,
    "eoi_token_index": 11,
    "image_token_index": 12,
}
CANDIDATES = Candidates("Name a river.", ("The Nile", "A longer answer, so that another is padded.", "No"))
QUESTION = "Task: {instruction}\nAnswer: {response}\nGood?"
SETTINGS = TrainSettings(
    beta=0.1,
    nll_weight=0.5,
    learning_rate=1e-3,
    lr_scheduler="constant",
    num_epochs=2,
    batch_size=2,
    micro_batch_size=2,
    gradient_checkpointing=False,
    lora_rank=4,
    lora_alpha=8,
)


class Outcome(NamedTuple):
    """What a family's model is compared in, and what came of it: `EQUAL`, or a sentence."""

    subject: str
    found: str


def make_tokenizer() -> Any:
    """Return a tokenizer whose tokens are bytes and `SPECIALS`, with a chat template that ends turns by `<|end|>`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = [*SPECIALS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({name: index for index, name in enumerate(names)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    bos, eos, pad, *others = SPECIALS
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=bos,
        eos_token=eos,
        pad_token=pad,
        additional_special_tokens=others,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def make_family(family: str, directory: Path, **changes: Any) -> Policy:
    """Save a tiny float32 model of a family and its tokenizer to `directory`; return it as a policy."""
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    given = FAMILIES[family]
    sizes = {} if "text_config" in given else SIZES
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **{**sizes, **given, **changes}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1 or "sink" in name:  # gains and biases that are all alike hide a mixed-up one
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.generation_config = GenerationConfig(eos_token_id=1, pad_token_id=2)
    model.save_pretrained(directory)
    make_tokenizer().save_pretrained(directory)
    return policy_of(directory)


def policy_of(directory: Path) -> Policy:
    """Return the model in a directory as a policy, with what its chat template is found to do."""
    conventions = read_conventions(load_tokenizer(directory), template_arguments={}, date=TEMPLATE_DATE)
    return Policy(str(directory), None, str(directory), "float32", 512, None, conventions=conventions)


def own_model(policy: Policy) -> Any:
    """Return the model as transformers and peft load it, without anything of this project."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(policy.model_path, dtype=torch.float32).eval()
    return model if policy.adapter_path is None else PeftModel.from_pretrained(model, str(policy.adapter_path)).eval()


def ids_of(seed: int, length: int) -> list[int]:
    """Return ids of bytes."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(len(SPECIALS), 256, (length,), generator=generator).tolist()


def sampling(policy: Policy, _: Path) -> str:
    """Compare greedy samples of prompts that share a beginning with those of `generate`."""
    chat = load_chat(policy)
    prompts = [[*ids_of(9, 20), *ids_of(seed, length)] for seed, length in ((1, 1), (2, 14), (3, 60))]
    engine = TorchEngine(policy, tokenizer=chat.tokenizer, end_ids=chat.end_ids, max_sequences=4, max_len=128)
    decoding = Decoding(temperature=0, top_p=1, max_tokens=12)
    requests = [Request(str(number), prompt, {0: 0, 1: 1}) for number, prompt in enumerate(prompts)]
    found = {(key, index): made.token_ids for key, index, made in engine.stream(requests, decoding=decoding)}
    model = own_model(policy)
    for number, prompt in enumerate(prompts):
        given = torch.tensor([prompt])
        expected = model.generate(
            input_ids=given,
            attention_mask=torch.ones_like(given),
            do_sample=False,
            max_new_tokens=12,
            eos_token_id=sorted(chat.end_ids),
            pad_token_id=2,
        )[0, len(prompt) :].tolist()
        if not all(found[str(number), index] == expected for index in (0, 1)):
            return f"greedy samples are {found[str(number), 0]}, of generate {expected}"
    return EQUAL


def sampling_trained(policy: Policy, work: Path) -> str:
    """Do the same with an adapter on every layer that training adapts, its matrices random."""
    from peft import get_peft_model

    seed_model = own_model(policy)
    torch.manual_seed(1)
    model = get_peft_model(seed_model, SETTINGS.lora(excluded=without_adapter(seed_model)))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(work)
    return sampling(replace(policy, adapter_path=work), work)


def make_pairs() -> list[Pair]:
    """Return two pairs, whose completions begin alike."""
    fixed: dict[str, Any] = {
        "chosen_forced": [0, 0],
        "rejected_forced": [0, 0],
        "chosen_response_start": 2,
        "rejected_response_start": 2,
        "chosen": "",
        "rejected": "",
        "chosen_index": 0,
        "rejected_index": 1,
        "margin": 1.0,
        "chosen_score": 1.0,
        "rejected_score": 0.0,
        "chosen_length": 1.0,
        "rejected_length": 1.0,
    }
    return [
        Pair(
            prompt_id=str(number),
            prompt_ids=ids_of(number, 10 + 3 * number),
            chosen_ids=[*ids_of(50, 3), *ids_of(number + 10, 8), 1],
            rejected_ids=[*ids_of(50, 3), *ids_of(number + 20, 5 + number), 1],
            **fixed,
        )
        for number in range(2)
    ]


def pair_logps(model: Any, pairs: Sequence[Pair]) -> torch.Tensor:
    """Return log p(completion | prompt) of each pair's two, (pairs, 2), one forward pass a sequence."""
    found = []
    for pair in pairs:
        for completion in (pair.chosen_ids, pair.rejected_ids):
            ids = torch.tensor([[*pair.prompt_ids, *completion]])
            mask = torch.zeros_like(ids, dtype=torch.bool)
            mask[:, len(pair.prompt_ids) :] = True
            found.append(sequence_logps(model(input_ids=ids).logits, ids, mask))
    return torch.cat(found).view(len(pairs), 2)


@torch.no_grad()
def training(policy: Policy, work: Path) -> str:
    """Compare the loss of the second of two steps with the model's own, with the adapter that the first one made."""
    pairs = make_pairs()
    with torch.enable_grad():
        metrics = train_on_pairs(work, pairs, policy, SETTINGS, seed=3)
    reference = pair_logps(own_model(policy), pairs)
    logps = pair_logps(own_model(replace(policy, adapter_path=work / "epoch-1")), pairs)
    lengths = torch.tensor([len(pair.chosen_ids) for pair in pairs])
    expected = float(
        dpo_loss(*logps.T, *reference.T, beta=SETTINGS.beta).loss.mean()
        + SETTINGS.nll_weight * nll_loss(logps[:, 0], lengths).mean()
    )
    second = json.loads((work / "metrics.jsonl").read_text().splitlines()[1])
    if abs(second["loss"] - expected) > TOLERANCE:
        return f"the loss is {second['loss']:.4f}, of the model's own logits {expected:.4f}"
    if float((logps - reference).abs().max()) < TOLERANCE:
        return "the first step changed nothing"
    match metrics["slow_path"]:
        case None:
            return EQUAL
        case "pairs are padded":
            return f"{EQUAL}, padded"
        case _:
            return f"{EQUAL}, all logits"


@torch.no_grad()
def likelihood(policy: Policy, _: Path) -> str:
    """Compare the log-likelihoods of responses, up to what ends a turn, with those of whole sequences."""
    judge = Likelihood(SummedLikelihood(with_instruction=True, batch_tokens=64), policy)
    (found,) = judge.score([CANDIDATES])
    model, tokenizer = own_model(policy), load_tokenizer(policy.tokenizer_path)
    context = chat_ids(tokenizer, CANDIDATES.instruction)
    for response, judgement in zip(CANDIDATES.responses, found, strict=True):
        ids = torch.tensor([[*context, *tokenizer.encode(f"{response}<|end|>", add_special_tokens=False)]])
        expected = float(
            sequence_logps(model(input_ids=ids).logits, ids, torch.arange(ids.shape[1])[None] >= len(context))
        )
        if judgement.value is None or abs(judgement.value - expected) > TOLERANCE:
            return f"a log-likelihood is {judgement.value}, of the model's own logits {expected:.4f}"
    return manner(judge.reader)


@torch.no_grad()
def self_rating(policy: Policy, _: Path) -> str:
    """Compare the log-odds of one answer against another with those of whole sequences."""
    judge = SelfRating(SelfRatingJudge(question=QUESTION, positive="Y", negative="N", batch_tokens=64), policy)
    (found,) = judge.score([CANDIDATES])
    model, tokenizer = own_model(policy), load_tokenizer(policy.tokenizer_path)
    (yes,), (no,) = (tokenizer.encode(answer, add_special_tokens=False) for answer in ("Y", "N"))
    for response, judgement in zip(CANDIDATES.responses, found, strict=True):
        asked = QUESTION.format(instruction=CANDIDATES.instruction, response=response)
        logits = model(input_ids=torch.tensor([chat_ids(tokenizer, asked)])).logits[0, -1]
        expected = float(logits[yes] - logits[no])
        if judgement.value is None or abs(judgement.value - expected) > TOLERANCE:
            return f"the log-odds are {judgement.value}, of the model's own logits {expected:.4f}"
    return manner(judge.reader)


def manner(reader: LogitReader) -> str:
    """Return that a judge's scores are equal, and how they were computed where not on the fast path."""
    if reader.reader is None:
        return f"{EQUAL}, run whole"
    return EQUAL if reader.reader.is_shared else f"{EQUAL}, unshared"


SUBJECTS: dict[str, Callable[[Policy, Path], str]] = {
    "sample": sampling,
    "with adapter": sampling_trained,
    "train": training,
    "likelihood": likelihood,
    "self_rating": self_rating,
}


def compare(family: str, subject: str, directory: Path) -> Outcome:
    """Return what came of one comparison of a family's model, which is made in a directory."""
    made = directory / "model"
    policy = policy_of(made) if made.exists() else make_family(family, made)
    work = directory / subject
    work.mkdir()
    try:
        return Outcome(subject, SUBJECTS[subject](policy, work))
    except TpoError as error:
        return Outcome(subject, f"{REFUSED}: {error}".replace(str(made), "the model"))


def table_of(found: dict[str, list[Outcome]]) -> str:
    """Return the table in Markdown, and what is said of the families that are refused, or computed wrongly."""
    rows, said = [], []
    for family, outcomes in found.items():
        cells = [text.partition(":")[0] for _, text in outcomes]
        rows.append([family, *cells])
        said += [f"- {family}: {text}" for text in dict.fromkeys(text for _, text in outcomes if ":" in text)]
    return to_markdown(TextTable("", ["family", *SUBJECTS], rows)) + "\n" + "\n".join(said)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Which model families are computed rightly.")
    parser.add_argument("families", nargs="*", metavar="family", help=f"of {', '.join(FAMILIES)}; all by default")
    families = sorted(parser.parse_args().families or FAMILIES)
    if unknown := set(families) - set(FAMILIES):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)  # a second one slows tiny models down
    found = {}
    with redirect_stdout(sys.stderr):  # trl prints what it trains
        for family in families:
            with tempfile.TemporaryDirectory() as directory:
                found[family] = [compare(family, subject, Path(directory)) for subject in SUBJECTS]
    print(table_of(found))


if __name__ == "__main__":
    main()
