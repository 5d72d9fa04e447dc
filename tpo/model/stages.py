"""The stage that prepares a seed model."""

import logging
from collections.abc import Iterable
from pathlib import Path

from tpo.config.groups import ModelConfig
from tpo.config.thought import ThoughtFormat
from tpo.model.asked import ask
from tpo.model.chat import load_tokenizer, read_template
from tpo.model.conventions import Conventions
from tpo.model.load import fingerprint
from tpo.store.artifacts import Artifact
from tpo.store.stage import RunsOn, Stage
from tpo.store.store import Store

log = logging.getLogger(__name__)

MODEL = Stage("model", version=2, work="tpo.model.prepare:work", runs_on=RunsOn.DEVICE)


def prepare_model(store: Store, model: ModelConfig) -> Artifact:
    """Return the seed model's tokenizer, its chat template's conventions and, where they are made here, its weights."""
    config = {
        "source": model.source,
        "name": model.name,
        "revision": model.revision,
        "quantization": model.quantization,
        "dtype": model.dtype,
        "chat_template": _template_of(model),
        "template_arguments": model.template_arguments,
        "template_date": model.template_date,
        "fingerprint": fingerprint(model.name) if model.source == "pretrained" else None,
    }
    return store.request(MODEL, config)


def _template_of(model: ModelConfig) -> str | None:
    """Return the chat template of `model.chat_template`, None where the tokenizer's own is taken."""
    if not model.chat_template:
        return None
    return read_template(Path(model.chat_template), at=f"model.chat_template={model.chat_template}")


def require_askable(model: Artifact, forms: Iterable[ThoughtFormat]) -> None:
    """Log what a model's chat template does, and check that the model can be asked in these thought formats.

    Nothing is sampled before. A plan computes no artifact and so checks nothing.

    Raises:
        AskError: Naming the format and what to do.
        ChatError: If the template does not know a format's arguments, or fails on them.
    """
    if not model.metrics:
        return
    conventions = Conventions.from_metrics(model.metrics)
    log.info("%s: %s", model.metrics["name"], conventions.describe())
    for form in forms:
        ask(form, conventions, load_tokenizer(model.verified("tokenizer")) if form.template_arguments else None)
