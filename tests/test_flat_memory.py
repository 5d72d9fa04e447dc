"""A process that does the same again and again does not grow: models, caches and kernels of one step end with it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tpo.store.memory import KERNELS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator, and reads /proc"),
]
REPETITIONS = 5
# What equal repetitions may add, MiB: the last three added 0.1 together. And what others, each with shapes of its own,
# may add in all: 52 were measured, and 104 where oneDNN keeps 1,024 kernels. What is left of it no limit bounds: tables
# that oneDNN keeps for each new shape in 16 bits; with equal shapes, or in float32, there is no such growth.
EQUAL_MIB, NEW_SHAPES_MIB = 4, 78

SAMPLING = """
import json, random, sys
from tpo.store.memory import give_back, keep_few_kernels, keep_freed_memory
keep_few_kernels()
keep_freed_memory()
from tpo.model.chat import load_tokenizer
from tpo.model.policy import Policy
from tpo.sample.decoding import Decoding, Request
from tpo.sample.engines.torch.engine import TorchEngine

model, is_equal, repetitions = sys.argv[1], sys.argv[2] == "equal", int(sys.argv[3])
tokenizer = load_tokenizer(model)
policy = Policy(model, None, model, "bfloat16", 512, None)
choose, found = random.Random(0), []
for repetition in range(repetitions):
    if is_equal:
        choose.seed(0)
    engine = TorchEngine(policy, tokenizer=tokenizer, end_ids=frozenset(), max_sequences=24, max_len=512)
    # As the steps of a run: other prompts, lengths and numbers of rows each time.
    lengths = [choose.randint(3, 150) for _ in range(36)]
    requests = [Request(str(i), [choose.randint(3, 60) for _ in range(n)], {0: i}) for i, n in enumerate(lengths)]
    for tokens in (7, 30, 61):
        decoding = Decoding(temperature=1.0, top_p=1.0, max_tokens=tokens + repetition * (not is_equal))
        assert len(list(engine.stream(requests, decoding=decoding))) == len(requests)
    del engine
    give_back()
    found.append(int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20)
print(json.dumps(found))
"""


@pytest.mark.parametrize(("kind", "most"), [("equal", EQUAL_MIB), ("others", NEW_SHAPES_MIB)])
def test_sampling_again_and_again(kind: str, most: int, tiny_model: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != KERNELS} | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SAMPLING, str(tiny_model), kind, str(REPETITIONS)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    resident = json.loads(done.stdout.splitlines()[-1])
    assert resident[-1] - resident[1 if kind == "equal" else 0] < most, resident
