"""Settings of a language model that is asked: as a judge, or to sort instructions into categories."""

from dataclasses import dataclass
from typing import Any

from tpo.config.fields import ConfigError, Settings, check_place, setting
from tpo.config.groups import DTYPES
from tpo.config.template_arguments import check_template_arguments
from tpo.model.load import fingerprint
from tpo.store.stage import RunsOn


@dataclass
class ServerConfig(Settings):
    """An OpenAI-compatible server."""

    base_url: str | None = setting(None)
    api_key_env: str = setting("OPENAI_API_KEY")
    max_concurrency: int = setting(16, minimum=1)
    max_retries: int = setting(6, minimum=0)
    patience_s: float = setting(600.0, minimum=0)
    timeout_s: float = setting(300.0, above=0)
    accepts_empty: bool = setting(False)


@dataclass
class LocalLLMConfig(Settings):
    """vLLM in a process beside the run's, or in several."""

    dtype: str = setting("bfloat16", choices=DTYPES)
    max_model_len: int = setting(8192)
    max_num_seqs: int = setting(256)
    gpu_memory_utilization: float = setting(0.9)
    enforce_eager: bool = setting(False)
    tensor_parallel_size: int = setting(1, minimum=1)
    data_parallel_size: int = setting(1, minimum=1)


@dataclass
class LLMConfig(Settings):
    """Which model is asked, how it decodes, and where it runs, which changes no answer."""

    backend: str = setting(choices=("vllm", "server"), packages={"vllm": "vllm", "server": "openai"})
    name: str | None = setting(None)
    revision: str | None = setting(None)
    temperature: float = setting(0.0, minimum=0)
    max_tokens: int = setting(minimum=1)
    template_arguments: dict[str, Any] = setting({})
    max_calls: int | None = setting(None, minimum=0, how=True)
    server: ServerConfig = setting(ServerConfig, how=True)
    vllm: LocalLLMConfig = setting(LocalLLMConfig, how=True)

    @property
    def uses_seed_model(self) -> bool:
        """Whether it has no model of its own."""
        return self.name is None

    @property
    def runs_on(self) -> RunsOn:
        """What asking it computes with."""
        return RunsOn.VLLM if self.backend == "vllm" else RunsOn.HOST

    @property
    def written_tokens(self) -> int:
        """The most that an answer may hold."""
        return self.max_tokens

    def depends_on(self) -> dict[str, Any]:
        """Return the dtype that vLLM computes in, and what tells the contents of a local directory from another's."""
        found: dict[str, Any] = {"vllm_dtype": self.vllm.dtype} if self.backend == "vllm" else {}
        return found if self.name is None else found | {"fingerprint": fingerprint(self.name)}

    def check(self, at: str) -> None:
        """Check that a server's model has a name, and that arguments of a template go where one is rendered."""
        check_template_arguments(f"{at}.template_arguments", self.template_arguments)
        if self.backend == "vllm" and self.name is not None:
            check_place(f"{at}.name", self.name)
        if self.backend == "server" and self.name is None:
            raise ConfigError(f"{at}.backend=server needs {at}.name: judgements are kept under the model's name")
        if self.backend == "server" and self.template_arguments and self.server.base_url is None:
            raise ConfigError(
                f"{at}.template_arguments: OpenAI's own server takes none; set {at}.server.base_url to one that does"
            )


@dataclass
class PromptedLLMConfig(LLMConfig):
    """A language model whose prompt is a setting."""

    system: str | None = setting(None)
    prompt: str = setting()
