"""Values that do not go together are refused, each with one sentence that says what to set."""

from __future__ import annotations

import pytest

from tests.support.helm import Refused, render
from tests.worker_cluster.cases import CHART

PREFILL = ("disaggregation.enabled=true",)
KEYS = ("secrets.routerApiKeys.create=true", "secrets.routerApiKeys.keys={a-key-for-the-router}")
KNOWN = ("model.id=meta-llama/Llama-3.1-8B-Instruct", "gpu.memoryMiB=23034")

WRONG = {
    "disaggregation on GPUs that nobody counted": (
        PREFILL,
        (
            "disaggregation.enabled takes two GPUs at least, one to read prompts and one to answer: "
            "set disaggregation.enabled=false, or gpu.available to the number of GPUs in the cluster."
        ),
    ),
    "disaggregation on one GPU": (
        (*PREFILL, "gpu.available=1"),
        (
            "disaggregation.enabled takes two GPUs at least, one to read prompts and one to answer: "
            "set disaggregation.enabled=false, or gpu.available to the number of GPUs in the cluster."
        ),
    ),
    "disaggregation on too few GPUs": (
        (*PREFILL, "gpu.available=4", "gpu.count=2", "decode.replicas=2"),
        (
            "decode.replicas, disaggregation.prefill.replicas and gpu.count ask for 6 GPUs together "
            "and gpu.available says that there are 4: lower one of them."
        ),
    ),
    "disaggregation on the CPU": (
        (*PREFILL, "engine.kind=vllm-cpu"),
        "disaggregation.enabled needs engine.kind=vllm, or sim to try it: the cache goes from GPU to GPU.",
    ),
    "disaggregation without a role": (
        (*PREFILL, "engine.kind=sim", "disaggregation.prefill.replicas=0"),
        (
            "disaggregation.enabled needs a worker of each role: "
            "set decode.replicas and disaggregation.prefill.replicas to 1 at least."
        ),
    ),
    "disaggregation with a scaler": (
        (*PREFILL, "engine.kind=sim", "autoscaling.mode=keda"),
        (
            "autoscaling.mode=keda works on workers that are all alike: "
            "set autoscaling.mode=none, or disaggregation.enabled=false."
        ),
    ),
    "more workers than GPUs": (
        ("gpu.available=2", "decode.replicas=3"),
        "decode.replicas and gpu.count ask for 3 GPUs and gpu.available says that there are 2: lower one of them.",
    ),
    "a scaler that outgrows the GPUs": (
        ("gpu.available=2", "autoscaling.mode=hpa", "autoscaling.max=3"),
        "autoscaling.max and gpu.count ask for 3 GPUs and gpu.available says that there are 2: lower one of them.",
    ),
    "bounds upside down": (
        ("autoscaling.mode=hpa", "autoscaling.min=3"),
        "autoscaling.min=3 is more than autoscaling.max=2: swap them.",
    ),
    "zero with hpa": (
        ("autoscaling.mode=hpa", "autoscaling.keda.scaleToZero=true"),
        "autoscaling.keda.scaleToZero needs autoscaling.mode=keda, as nothing else can start the first worker.",
    ),
    "zero without a queue": (
        ("autoscaling.mode=keda", "autoscaling.keda.scaleToZero=true", "router.epp.flowControl.enabled=false"),
        (
            "autoscaling.keda.scaleToZero needs router.epp.flowControl.enabled=true, "
            "which holds requests until the first worker is up."
        ),
    ),
    "a context that does not fit": (
        (*KNOWN, "limits.maxModelLen=131072"),
        (
            "limits.maxModelLen=131072 does not fit into 1 x 23034 MiB of GPU memory with "
            "meta-llama/Llama-3.1-8B-Instruct: the largest safe value is 25600, "
            "so set limits.maxModelLen=25600, or auto."
        ),
    ),
    "a context that the model was not made for": (
        (*KNOWN, "limits.maxModelLen=131073"),
        (
            "limits.maxModelLen=131073 is longer than meta-llama/Llama-3.1-8B-Instruct was made for: "
            "set limits.maxModelLen to 131072 at most, or to auto."
        ),
    ),
    "a model that does not fit": (
        (*KNOWN, "gpu.memoryMiB=16376", "limits.maxModelLen=4096"),
        (
            "meta-llama/Llama-3.1-8B-Instruct leaves no room for its cache in 1 x 16376 MiB of GPU memory: "
            "set gpu.count to more GPUs, or model.id to a smaller model."
        ),
    ),
    "a cache that is too small on the CPU": (
        ("engine.kind=vllm-cpu", "model.id=Qwen/Qwen3-0.6B", "limits.maxModelLen=40960"),
        (
            "limits.maxModelLen=40960 does not fit into limits.cpuKvCacheGiB=2 with Qwen/Qwen3-0.6B: "
            "the largest safe value is 18688, so set limits.maxModelLen=18688, or auto."
        ),
    ),
    "fp8 on the CPU": (
        ("engine.kind=vllm-cpu", "limits.kvCacheDtype=fp8"),
        "limits.kvCacheDtype=fp8 needs engine.kind=vllm: set it to auto.",
    ),
    "an argument that a value sets": (
        ("engine.extraArgs={--max-model-len=131072}",),
        "engine.extraArgs holds --max-model-len, which the chart sets: set limits.maxModelLen in its place.",
    ),
    "the same argument as vLLM also spells it": (
        ("engine.extraArgs={--max_model_len 131072}",),
        "engine.extraArgs holds --max-model-len, which the chart sets: set limits.maxModelLen in its place.",
    ),
    "an argument by its short name": (
        ("engine.extraArgs={-tp=2}",),
        "engine.extraArgs holds -tp, which the chart sets: set gpu.count in its place.",
    ),
    "an argument that probes rely on": (
        ("engine.extraArgs={--port=9000}",),
        "engine.extraArgs holds --port, which probes and Services rely on: take it out.",
    ),
    "a key that the probes do not know": (
        ("engine.extraArgs={--api-key=secret}",),
        (
            "engine.extraArgs holds --api-key, which the probes do not know: "
            "set secrets.routerApiKeys, so that the entrance asks for keys."
        ),
    ),
    "the same key as a variable": (
        ("engine.extraEnv[0].name=VLLM_API_KEY,engine.extraEnv[0].value=secret",),
        (
            "engine.extraEnv holds VLLM_API_KEY, which the probes do not know: "
            "set secrets.routerApiKeys, so that the entrance asks for keys."
        ),
    ),
    "a token in plain text": (
        ("engine.extraEnv[0].name=HF_TOKEN,engine.extraEnv[0].value=secret",),
        "engine.extraEnv holds HF_TOKEN in plain text: set secrets.hfToken in its place.",
    ),
    "a variable that is set already": (
        ("engine.extraEnv[0].name=HF_HOME,engine.extraEnv[0].value=/data",),
        "engine.extraEnv holds HF_HOME, which is set already: take it out.",
    ),
    "two Secrets of keys": (
        (*KEYS, "secrets.routerApiKeys.existingSecret=keys"),
        (
            "secrets.routerApiKeys names an existingSecret and asks for one to be made: "
            "set create=false, or leave existingSecret empty."
        ),
    ),
    "keys without an entrance": (
        (*KEYS, "router.mode=external"),
        (
            "secrets.routerApiKeys works with router.mode=standalone, whose Envoy asks for them: "
            "let your own gateway ask for keys, and leave these empty."
        ),
    ),
    "a claim for no cache": (
        ("modelCache.enabled=false", "modelCache.existingClaim=weights"),
        "modelCache.existingClaim is set while modelCache.enabled=false: set it to true, or leave the claim empty.",
    ),
    "a Gateway of no class": (
        ("router.mode=gateway", "gateway.className="),
        "router.mode=gateway needs gateway.className, for instance agentgateway or istio.",
    ),
    "no Gateway": (
        ("router.mode=gateway", "gateway.create=false"),
        "router.mode=gateway with gateway.create=false needs gateway.existingName, the Gateway to attach to.",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_combination_is_refused(case: str) -> None:
    """The refusal is that sentence, and no other."""
    sets, told = WRONG[case]
    with pytest.raises(Refused) as refusal:
        render(CHART, None, *sets)
    assert str(refusal.value).splitlines()[1:] == [told]


@pytest.mark.parametrize("name", ["my.llm", "1234"])
def test_release_that_cannot_name_services_is_refused(name: str) -> None:
    """Helm takes more names than Kubernetes does; with one of its own for the objects, the release may keep it."""
    with pytest.raises(Refused, match=f"named after the release {name}: set fullnameOverride"):
        render(CHART, name=name)
    service = render(CHART, None, "fullnameOverride=llm", name=name).one("Service", "-workers")
    assert service["metadata"]["labels"]["app.kubernetes.io/instance"] == name


def test_wrong_combinations_are_told_all_at_once() -> None:
    """Whoever made two mistakes reads of both."""
    with pytest.raises(Refused) as refusal:
        render(CHART, None, "router.mode=gateway", "gateway.className=", "autoscaling.mode=hpa", "autoscaling.min=3")
    assert len(str(refusal.value).splitlines()[1:]) == 2


@pytest.mark.parametrize(
    ("sets", "told"),
    [
        (("decode.replicas=2",), "workers on different nodes cannot share a ReadWriteOnce volume"),
        (("gpu.available=2",), "workers on different nodes cannot share a ReadWriteOnce volume"),
        (("autoscaling.mode=keda", "autoscaling.keda.scaleToZero=true"), "the first worker waits 60s at most"),
        (("autoscaling.mode=keda", "metrics.serviceMonitor=false"), "set metrics.serviceMonitor=true"),
        (("limits.maxModelLen=4096",), "is not checked against the memory, as gpu.memoryMiB is unknown: set it"),
        (
            ("limits.maxModelLen=4096", "model.id=example/model"),
            (
                "as gpu.memoryMiB, model.params.layers, model.params.kvHeads, model.params.headDim, "
                "model.params.weightsMiB are unknown: set them"
            ),
        ),
        ((*KNOWN, "limits.maxModelLen=131072", "limits.guard=warn"), "the largest safe value is 25600"),
        ((*KNOWN, "gpu.memoryMiB=16376"), "leaves no room for its cache"),
    ],
)
def test_surprising_combination_is_told_in_the_notes(sets: tuple[str, ...], told: str) -> None:
    """What may be right and may surprise is let through, and said."""
    warnings = [line for line in render(CHART, None, *sets).notes.splitlines() if line.startswith("WARNING: ")]
    assert any(told in line for line in warnings), warnings


@pytest.mark.parametrize("sets", [(), ("engine.kind=sim",), (*KNOWN, "limits.maxModelLen=25600")])
def test_plain_values_bring_no_warning(sets: tuple[str, ...]) -> None:
    """The notes warn only where there is something to do."""
    assert "WARNING" not in render(CHART, None, *sets).notes
