"""The guard's reckoning: against llm-d's own planner, against a restatement of it, and what must always hold."""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import helm_python
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import tests.support.properties  # noqa: F401 - how property tests run here
from tests.worker_cluster.cases import CHART

GIB = 1024
MODELS = yaml.safe_load((CHART / "models.yaml").read_text(encoding="utf-8"))
TELLING = """\
safe: {{ if not (include "worker-cluster.capacityUnknown" . | fromYamlArray) }}
  {{- include "worker-cluster.safeMaxModelLen" . }}{{ end }}
"""


class Guard:
    """The chart's templates of the guard alone, so that hundreds of reckonings take no time."""

    def __init__(self, folder: Path) -> None:
        (folder / "templates").mkdir()
        for name in ("Chart.yaml", "values.yaml", "models.yaml", "templates/_capacity.tpl"):
            shutil.copy(CHART / name, folder / name)
        (folder / "templates" / "safe.yaml").write_text(TELLING, encoding="utf-8")
        self._chart = helm_python.Chart.load(folder)

    def safe(self, values: dict[str, Any]) -> int | None:
        """Return the longest context that is called safe; None: it is not known."""
        (text,) = self._chart.render(values, name="llm-d", namespace="llm-d").values()
        found: int | None = yaml.safe_load(text)["safe"]
        return found

    def close(self) -> None:
        """Let go of Helm's chart."""
        self._chart.close()


@pytest.fixture(scope="module")
def guard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guard]:
    """The guard, on its own."""
    guard = Guard(tmp_path_factory.mktemp("guard"))
    yield guard
    guard.close()


# --- the planner ------------------------------------------------------------------------------


class Shape(NamedTuple):
    """A model of models.yaml as the planner wants to be told of it, and the GPUs it is tried on."""

    model: str
    config: dict[str, Any]
    parallel: tuple[int, ...]


DENSE = {"torch_dtype": "bfloat16"}
SHAPES = (
    Shape(
        "meta-llama/Llama-3.1-8B-Instruct",
        {**DENSE, "architectures": ["LlamaForCausalLM"], "num_attention_heads": 32, "hidden_size": 4096},
        (1, 2),
    ),
    Shape(
        "Qwen/Qwen3-4B-Instruct-2507",
        {**DENSE, "architectures": ["Qwen3ForCausalLM"], "num_attention_heads": 32, "hidden_size": 2560},
        (1, 2),
    ),
    Shape(
        "meta-llama/Llama-3.3-70B-Instruct",
        {**DENSE, "architectures": ["LlamaForCausalLM"], "num_attention_heads": 64, "hidden_size": 8192},
        (4, 8),
    ),
    Shape(
        "Qwen/Qwen3-30B-A3B-Instruct-2507",
        {**DENSE, "architectures": ["Qwen3MoeForCausalLM"], "num_attention_heads": 32, "hidden_size": 2048},
        (1, 4),
    ),
    Shape(
        "mistralai/Mixtral-8x7B-Instruct-v0.1",
        {
            **DENSE,
            "architectures": ["MixtralForCausalLM"],
            "num_attention_heads": 32,
            "hidden_size": 4096,
            "num_local_experts": 8,
        },
        (2, 4),
    ),
    Shape(
        "deepseek-ai/DeepSeek-V3",
        {
            **DENSE,
            "architectures": ["DeepseekV3ForCausalLM"],
            "num_attention_heads": 128,
            "hidden_size": 7168,
            "kv_lora_rank": 512,
            "qk_rope_head_dim": 64,
            "n_routed_experts": 256,
        },
        (8, 16),
    ),
)
GPUS = {"L4": 23034, "A100-40GB": 40960, "H100-80GB": 81559, "H200": 143771}
ROUNDED_UP = 4
"""MiB that the guard is more careful by: memory, weights, activations and runtime are each a whole number of them."""

GRID = [(shape, gpus, memory) for shape in SHAPES for gpus in shape.parallel for memory in GPUS.values()]


@pytest.fixture(scope="module")
def planner() -> Iterator[Any]:
    """llm-d's capacity planner; it needs Python 3.11, and transformers only to ask Hugging Face for a model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "transformers", None)
        yield pytest.importorskip("planner.capacity_planner")


def _config(shape: Shape) -> SimpleNamespace:
    known = MODELS[shape.model]
    return SimpleNamespace(
        num_hidden_layers=known["layers"],
        num_key_value_heads=known.get("kvHeads", shape.config["num_attention_heads"]),
        head_dim=known.get("headDim", 128),
        max_position_embeddings=known["nativeMaxLen"],
        **shape.config,
    )


@pytest.mark.parametrize("utilisation", [0.8, 0.9])
@pytest.mark.parametrize(
    ("shape", "gpus", "memory"), GRID, ids=[f"{shape.model}-{gpus}x{memory}" for shape, gpus, memory in GRID]
)
def test_guard_agrees_with_the_planner(
    planner: Any, guard: Guard, shape: Shape, gpus: int, memory: int, utilisation: float
) -> None:
    """The guard calls nothing safe that the planner does not, and is at most a few MiB and one block more careful.

    The planner's own longest context is right for one GPU alone: for several it holds the cache of all of them against
    the share that one takes of a token. So its parts are put together here, for one GPU of them.
    """
    config = _config(shape)
    activation = planner.estimate_vllm_activation_memory(config, tp=gpus)
    detail = planner.KVCacheDetail(shape.model, config)
    # Each GPU keeps the whole latent vector of a token, and its share of the heads.
    token = detail.per_token_memory_bytes / (1 if detail.attention_type == planner.AttentionType.MLA else gpus)
    cache = (
        planner.available_gpu_memory(memory / GIB, utilisation)
        - MODELS[shape.model]["weightsMiB"] / GIB / gpus
        - activation
        - planner.estimate_vllm_non_torch_memory(gpus)
    )
    theirs = max(0, min(int(planner.gib_to_bytes(cache) // token), config.max_position_embeddings))
    ours = guard.safe(
        {
            "model": {"id": shape.model, "params": {"activationMiB": math.ceil(activation * GIB)}},
            "gpu": {"count": gpus, "memoryMiB": memory},
            "limits": {"gpuMemoryUtilization": utilisation},
        }
    )
    assert ours is not None
    assert 0 <= theirs - ours <= ROUNDED_UP * 2**20 / token + 16


def test_planner_puts_its_parts_together_so(planner: Any, guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    """On one GPU, the planner's longest context is the one that the test above makes of its parts."""
    shape = SHAPES[0]
    config = _config(shape)
    # It would ask Hugging Face for the size of the weights.
    monkeypatch.setattr(planner, "model_memory_req", lambda *_: MODELS[shape.model]["weightsMiB"] / GIB)
    theirs = planner.auto_max_model_len(shape.model, config, GPUS["L4"] / GIB)
    ours = guard.safe({"model": {"id": shape.model}, "gpu": {"memoryMiB": GPUS["L4"]}})
    assert ours is not None
    token = 2 * 32 * 8 * 128 * 2
    assert 0 <= theirs - ours <= ROUNDED_UP * 2**20 / token + 16


def test_table_says_what_the_planner_measured(planner: Any) -> None:
    """Activations in models.yaml are those of the planner's measurements, or more."""
    for shape in SHAPES:
        measured = planner.estimate_vllm_activation_memory(_config(shape)) * GIB
        assert 0 <= MODELS[shape.model]["activationMiB"] - measured < 2, shape.model


# --- the restatement --------------------------------------------------------------------------


class Worker(NamedTuple):
    """What the guard reckons with."""

    memory: int
    utilisation: float
    gpus: int
    weights: int
    layers: int
    heads: int
    head_dim: int
    latent: int
    native: int
    activation: int
    concurrency: int
    dtype: str

    @property
    def values(self) -> dict[str, Any]:
        """The same as values of the chart."""
        return {
            "model": {
                "id": "example/model",
                "params": {
                    "weightsMiB": self.weights,
                    "layers": self.layers,
                    "kvHeads": self.heads,
                    "headDim": self.head_dim,
                    "latentDim": self.latent,
                    "nativeMaxLen": self.native,
                    "activationMiB": self.activation,
                },
            },
            "gpu": {"count": self.gpus, "memoryMiB": self.memory},
            "limits": {
                "gpuMemoryUtilization": self.utilisation,
                "minConcurrency": self.concurrency,
                "kvCacheDtype": self.dtype,
            },
        }

    @property
    def safe(self) -> int:
        """The longest safe context, in other words than the chart's."""
        numbers = self.latent or 2 * math.ceil(self.heads / self.gpus) * self.head_dim
        token = self.layers * numbers * (1 if self.dtype == "fp8" else 2)
        taken = math.floor(round(self.memory * self.utilisation, 6))
        runtime = 277 if self.gpus == 1 else 2151
        cache = taken - math.ceil(self.weights / self.gpus) - self.activation - runtime
        blocks = max(0, cache) * 2**20 // token // (16 * self.concurrency)
        return min(16 * blocks, self.native)


workers = st.builds(
    Worker,
    memory=st.integers(4096, 300_000),
    utilisation=st.integers(50, 99).map(lambda percent: percent / 100),
    gpus=st.sampled_from([1, 2, 4, 8]),
    weights=st.integers(500, 700_000),
    layers=st.integers(1, 128),
    heads=st.sampled_from([1, 2, 4, 8, 16, 32]),
    head_dim=st.sampled_from([64, 80, 96, 128, 256]),
    latent=st.sampled_from([0, 0, 576]),
    native=st.integers(16, 2_000_000),
    activation=st.integers(1, 4096),
    concurrency=st.integers(1, 64),
    dtype=st.sampled_from(["auto", "fp8"]),
)


@given(worker=workers)
def test_guard_reckons_as_restated(guard: Guard, worker: Worker) -> None:
    """Sprig's whole numbers give what Python's do."""
    assert guard.safe(worker.values) == worker.safe


@given(worker=workers, more=st.integers(1, 50_000))
def test_guard_never_gets_shorter_with_memory(guard: Guard, worker: Worker, more: int) -> None:
    """More memory, or lighter weights, never make a context unsafe."""
    safe = guard.safe(worker.values)
    assert safe is not None
    assert (guard.safe(worker._replace(memory=worker.memory + more).values) or 0) >= safe
    assert (guard.safe(worker._replace(weights=max(1, worker.weights - more)).values) or 0) >= safe


@given(worker=workers)
def test_guard_calls_whole_blocks_safe(guard: Guard, worker: Worker) -> None:
    """Safe is never beyond what the model was made for; below that, vLLM caches whole blocks."""
    safe = guard.safe(worker.values)
    assert safe is not None
    assert safe <= worker.native
    assert safe == worker.native or safe % 16 == 0


@given(worker=workers)
def test_guard_shares_the_cache_among_requests(guard: Guard, worker: Worker) -> None:
    """As many requests as were asked for fit into what one could have, and a smaller type never hurts."""
    alone = guard.safe(worker._replace(concurrency=1, native=10**12).values)
    shared = guard.safe(worker._replace(native=10**12).values)
    assert alone is not None
    assert shared is not None
    assert shared * worker.concurrency <= alone
    assert (guard.safe(worker._replace(dtype="fp8").values) or 0) >= (guard.safe(worker.values) or 0)


# --- the table and the CPU --------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
def test_table_is_complete(guard: Guard, model: str) -> None:
    """The guard needs nothing more than the table and the memory."""
    known = MODELS[model]
    assert known.keys() >= {"weightsMiB", "layers", "nativeMaxLen", "activationMiB"}
    assert guard.safe({"model": {"id": model}, "gpu": {"count": 16, "memoryMiB": 143771}})


def test_values_win_over_the_table(guard: Guard) -> None:
    """Half the weights, as in a quantised copy under the same name, leave more to the cache."""
    one = {"gpu": {"memoryMiB": 23034}, "model": {"id": "meta-llama/Llama-3.1-8B-Instruct"}}
    other = {**one, "model": {**one["model"], "params": {"weightsMiB": 5500}}}
    assert (guard.safe(other) or 0) > (guard.safe(one) or 0) > 0


def test_share_of_memory_may_be_text(guard: Guard) -> None:
    """As `--set` passes it."""
    values = {"gpu": {"memoryMiB": 23034}, "limits": {"gpuMemoryUtilization": 0.85}}
    assert guard.safe(values) == guard.safe({**values, "limits": {"gpuMemoryUtilization": "0.85"}})


def test_table_says_nothing_of_other_models(guard: Guard) -> None:
    """A model that is not in the table is unknown; it does not get the numbers of the default one."""
    assert guard.safe({"model": {"id": "example/model"}, "gpu": {"memoryMiB": 81559}}) is None


def test_cpu_reckons_with_its_own_cache(guard: Guard) -> None:
    """vllm-cpu takes the memory it is told to, whatever the GPUs are, in blocks of 128."""
    safe = guard.safe({"engine": {"kind": "vllm-cpu"}, "model": {"id": "Qwen/Qwen3-0.6B"}, "gpu": {"count": 4}})
    assert safe == 2 * 2**30 // (2 * 28 * 8 * 128 * 2) // 128 * 128
