"""The stage that prepares a seed model."""

from pathlib import Path

from tpo.config.groups import ModelConfig
from tpo.model.load import fingerprint
from tpo.store.artifacts import Artifact, Store
from tpo.store.stage import RunsOn, Stage

MODEL = Stage("model", version=1, work="tpo.model.prepare:work", runs_on=RunsOn.DEVICE)


def prepare_model(store: Store, model: ModelConfig) -> Artifact:
    """Return the seed model's tokenizer and, where it is embedded or quantized, its weights."""
    config = {
        "source": model.source,
        "name": model.name,
        "revision": model.revision,
        "quantization": model.quantization,
        "dtype": model.dtype,
        "chat_template": Path(model.chat_template).read_text() if model.chat_template else None,
        "fingerprint": fingerprint(model.name) if model.source == "pretrained" else None,
    }
    return store.request(MODEL, config)
