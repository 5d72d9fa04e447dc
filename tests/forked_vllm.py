"""vLLM imported once, in the process that forks commands (`commands.py`) or in a worker: each of its own processes is
a fork of the one that starts it.

On a CPU, vLLM spawns two processes for each engine, and each imports vLLM anew, which takes ten seconds of a core; the
processes and what they say to each other are the same otherwise, and forks are what vLLM has elsewhere unless told
otherwise. `test_vllm_run.py` starts vLLM as it is.
"""

import importlib
import multiprocessing

import vllm.utils.system_utils

# Before the modules that take the function by its name are imported.
vllm.utils.system_utils.get_mp_context = lambda: multiprocessing.get_context("fork")

for name in (
    *("vllm", "vllm.v1.engine.core", "vllm.v1.engine.llm_engine", "vllm.v1.engine.async_llm"),
    *("vllm.v1.executor.multiproc_executor", "vllm.v1.worker.cpu_worker", "vllm.model_executor.models.llama"),
    *("vllm.entrypoints.llm", "vllm.entrypoints.openai.api_server", "vllm.lora.request"),
    *("tpo.sample.engines.vllm", "tpo.judge.judges.llm_pairwise", "tpo.judge.judges.llm_pointwise", "peft"),
):
    importlib.import_module(name)
