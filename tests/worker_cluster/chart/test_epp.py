"""The endpoint picker: its configuration in the words of llm-d v0.10.0, its flags, its rights."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests.support.helm import Rendered, render
from tests.worker_cluster.cases import CASES, CHART, Case

# Plugin types that v0.10.0 registers as stable enough to need no flag, and does not call deprecated: those that the
# endpoint picker's source registers both shortly before and shortly after that release. A type that is not here keeps
# the picker from starting, needs --allow-experimental-plugins, or goes with the next release.
PLUGINS = {
    "always-disagg-multimodal-decider",
    "always-disagg-pd-decider",
    "approx-prefix-cache-producer",
    "concurrency-detector",
    "core-metrics-extractor",
    "decode-filter",
    "disagg-profile-handler",
    "encode-filter",
    "fcfs-ordering-policy",
    "global-strict-fairness-policy",
    "kv-cache-utilization-scorer",
    "label-selector-filter",
    "lora-affinity-scorer",
    "max-score-picker",
    "metrics-data-source",
    "openai-parser",
    "passthrough-parser",
    "prefill-filter",
    "prefix-based-pd-decider",
    "prefix-cache-scorer",
    "queue-scorer",
    "random-picker",
    "round-robin-fairness-policy",
    "single-profile-handler",
    "utilization-detector",
    "weighted-random-picker",
}
# What upstream's guides name and v0.10.0 must not be told: types of later releases, and those that are deprecated since
# v0.9.0 and gone in v0.11.
LATER = {"disaggregatedset-rollout-screener", "max-saturation-detector"}
LEAVING = {"by-label", "by-label-selector", "disagg-headers-handler", "pd-profile-handler", "prefill-header-handler"}
# Fields that v0.10.0 reads; the loader is strict about all others, `noEndpointRequestTTL` of later releases among them.
FIELDS = {"apiVersion", "kind", "featureGates", "plugins", "schedulingProfiles", "flowControl"}
FLOW_CONTROL = {"defaultRequestTTL", "maxRequests", "maxBytes", "defaultPriorityBand", "priorityBands"}
BAND = {"priority", "maxRequests", "maxBytes", "fairnessPolicyRef", "orderingPolicyRef"}
PARAMETERS = {"prefix-based-pd-decider": {"nonCachedTokens"}, "disagg-profile-handler": {"deciders", "profiles"}}

WITH_PICKER = [
    case for case in CASES if case.chart == "chart" and case.values.get("router", {}).get("mode") != "external"
]
every_case = pytest.mark.parametrize("case", WITH_PICKER, ids=lambda case: case.name)
GATEWAY = ("router.mode=gateway", "gateway.className=istio")
PD = ("disaggregation.enabled=true", "gpu.available=2")


@every_case
def test_configuration_holds_what_the_pinned_release_knows(case: Case) -> None:
    """Every plugin, field and parameter is one of v0.10.0, and every reference is to a plugin that is there."""
    config = _config(case.objects)
    assert (config["apiVersion"], config["kind"]) == ("llm-d.ai/v1alpha1", "EndpointPickerConfig")
    assert config.keys() <= FIELDS
    assert config.get("flowControl", {}).keys() <= FLOW_CONTROL
    assert config.get("flowControl", {}).get("defaultPriorityBand", {}).keys() <= BAND
    types = [plugin["type"] for plugin in config["plugins"]]
    assert not set(types) & (LATER | LEAVING)
    assert set(types) <= PLUGINS
    assert len(types) == len(set(types))
    for plugin in config["plugins"]:
        assert plugin.keys() <= {"type", "name", "parameters"}
        assert plugin.get("parameters", {}).keys() <= PARAMETERS.get(plugin["type"], set()), plugin
    for profile in config["schedulingProfiles"]:
        for plugin in profile["plugins"]:
            assert plugin["pluginRef"] in types
            assert ("weight" in plugin) is plugin["pluginRef"].endswith("-scorer")


def test_workers_are_scored_by_queue_cache_and_prefix() -> None:
    """One profile; the cached beginning of a prompt weighs most."""
    (profile,) = _config(render(CHART))["schedulingProfiles"]
    assert profile["plugins"] == [
        {"pluginRef": "queue-scorer", "weight": 2},
        {"pluginRef": "kv-cache-utilization-scorer", "weight": 2},
        {"pluginRef": "prefix-cache-scorer", "weight": 3},
    ]


def test_adapters_are_scored_where_there_are_some() -> None:
    """A worker that has a request's LoRA adapter loaded is preferred."""
    values = {"model": {"loraModules": [{"name": "support", "path": "example/support"}]}}
    (profile,) = _config(render(CHART, values))["schedulingProfiles"]
    assert "lora-affinity-scorer" in {plugin["pluginRef"] for plugin in profile["plugins"]}


def test_disaggregation_has_a_profile_for_each_role() -> None:
    """Prefill and decode choose among their own; the decider sends long prompts to prefill."""
    config = _config(render(CHART, {}, *PD, "disaggregation.minPromptTokens=512"))
    profiles = {
        item["name"]: [plugin["pluginRef"] for plugin in item["plugins"]] for item in config["schedulingProfiles"]
    }
    assert profiles.keys() == {"prefill", "decode"}
    assert (profiles["prefill"][0], profiles["decode"][0]) == ("prefill-filter", "decode-filter")
    parameters = {plugin["type"]: plugin.get("parameters") for plugin in config["plugins"]}
    assert parameters["prefix-based-pd-decider"] == {"nonCachedTokens": 512}
    assert parameters["disagg-profile-handler"] == {"deciders": {"prefill": "prefix-based-pd-decider"}}


def test_disaggregation_of_every_prompt_has_a_decider_of_its_own() -> None:
    """The decider by length takes 0 for never."""
    config = _config(render(CHART, {}, *PD, "disaggregation.minPromptTokens=0"))
    assert "always-disagg-pd-decider" in {plugin["type"] for plugin in config["plugins"]}
    assert "prefix-based-pd-decider" not in str(config)


def test_flow_control_queues_within_bounds() -> None:
    """So many requests wait so long; tenants of one priority take turns."""
    sets = ("router.epp.flowControl.ttl=90s", "router.epp.flowControl.maxRequests=1000000")
    config = _config(render(CHART, {}, *sets))
    assert config["featureGates"] == ["flowControl"]
    assert config["flowControl"] == {
        "defaultRequestTTL": "90s",
        "maxRequests": "1000000",
        "defaultPriorityBand": {"maxRequests": "1000000", "fairnessPolicyRef": "round-robin-fairness-policy"},
    }


def test_flow_control_can_be_left_out() -> None:
    """Then the gate stays shut, and nothing speaks of it."""
    config = _config(render(CHART, {}, "router.epp.flowControl.enabled=false"))
    assert not {"featureGates", "flowControl"} & config.keys()
    assert "fairness" not in str(config)


def test_a_configuration_of_ones_own_replaces_it() -> None:
    """As it is written."""
    own = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\nplugins: [{type: random-picker}]\n"
    assert _config(render(CHART, {"router": {"epp": {"pluginsConfig": own}}})) == yaml.safe_load(own)


def test_a_changed_configuration_restarts_the_pod() -> None:
    """The picker reads it once, and so does Envoy."""
    before, after, proxy = (
        render(CHART, {}, *sets).one("Deployment", "-epp")["spec"]["template"]["metadata"]["annotations"]
        for sets in ((), ("router.epp.flowControl.maxRequests=7",), ("router.proxy.streamTimeout=7s",))
    )
    assert before["checksum/epp"] != after["checksum/epp"]
    assert before["checksum/proxy"] != proxy["checksum/proxy"]


def test_workers_are_found_by_their_labels_without_any_crd() -> None:
    """Standalone mode makes no custom resource, and the picker may read pods alone."""
    objects = render(CHART)
    arguments = _picker(objects)["args"]
    (selector,) = [item.partition("=")[2] for item in arguments if item.startswith("--endpoint-selector=")]
    labels = dict(pair.split("=") for pair in selector.split(","))
    assert labels.items() <= objects.one("Deployment", "-decode")["spec"]["template"]["metadata"]["labels"].items()
    assert "--endpoint-target-ports=8000" in arguments
    assert not [item for item in arguments if item.startswith("--pool-")]
    assert {item["kind"] for item in objects} <= {
        "ConfigMap",
        "Deployment",
        "NetworkPolicy",
        "PersistentVolumeClaim",
        "Pod",
        "Role",
        "RoleBinding",
        "Service",
        "ServiceAccount",
    }
    assert _rights(objects) == {("", "pods"): {"get", "list", "watch"}}


def test_workers_are_found_through_a_pool_where_that_is_asked_for() -> None:
    """The pool brings the objectives, which the picker may read then."""
    objects = render(CHART, {}, "router.epp.discovery=pool")
    assert {"--pool-name=llm-d", "--pool-namespace=llm-d"} <= set(_picker(objects)["args"])
    assert not [item for item in _picker(objects)["args"] if item.startswith("--endpoint-")]
    assert {item["metadata"]["name"] for item in objects.of("InferenceObjective")} == {
        "interactive",
        "standard",
        "batch",
    }
    assert {resource for _, resource in _rights(objects)} == {
        "pods",
        "inferencepools",
        "inferenceobjectives",
        "inferencemodelrewrites",
    }


@every_case
def test_rights_end_at_the_namespace(case: Case) -> None:
    """A Role, never a ClusterRole; it reads, and writes nothing but the lease of an election."""
    assert not case.objects.of("ClusterRole")
    assert not case.objects.of("ClusterRoleBinding")
    for (_, resource), verbs in _rights(case.objects).items():
        assert verbs <= {"get", "list", "watch"} or resource in {"leases", "events"}


def test_several_replicas_elect_one() -> None:
    """It alone is ready; the rights to elect are there only then."""
    objects = render(CHART, {}, "router.epp.replicas=3")
    picker = _picker(objects)
    assert "--ha-enable-leader-election" in picker["args"]
    assert picker["readinessProbe"]["grpc"] == {"port": 9003, "service": "readiness"}
    assert picker["livenessProbe"]["grpc"] == {"port": 9003, "service": "liveness"}
    assert ("coordination.k8s.io", "leases") in _rights(objects)
    assert "--ha-enable-leader-election" not in _picker(render(CHART))["args"]


@pytest.mark.parametrize("sets", [(), ("router.epp.replicas=3",), GATEWAY])
def test_a_new_picker_starts_when_the_old_one_has_gone(sets: tuple[str, ...]) -> None:
    """What is cached where is known to one picker, so two are never of use."""
    assert render(CHART, {}, *sets).one("Deployment", "-epp")["spec"]["strategy"] == {"type": "Recreate"}


def test_the_token_is_the_pickers_alone() -> None:
    """Envoy stands in the same pod and has no use for one."""
    pod = render(CHART).one("Deployment", "-epp")["spec"]["template"]["spec"]
    (proxy,), (picker,) = pod["containers"], pod["initContainers"]
    mount = "/var/run/secrets/kubernetes.io/serviceaccount"
    assert mount in {item["mountPath"] for item in picker["volumeMounts"]}
    assert mount not in {item["mountPath"] for item in proxy["volumeMounts"]}


def test_envoy_ends_before_its_picker() -> None:
    """The picker is a sidecar that Kubernetes stops last, so that it is there for the last answer."""
    pod = render(CHART).one("Deployment", "-epp")["spec"]["template"]["spec"]
    assert [(item["name"], item["restartPolicy"]) for item in pod["initContainers"]] == [("epp", "Always")]
    assert [item["name"] for item in pod["containers"]] == ["proxy"]
    assert "--drain-timeout=0s" in pod["initContainers"][0]["args"]


def test_behind_a_gateway_the_picker_stands_alone() -> None:
    """It serves TLS, as gateways expect, and drains by itself."""
    objects = render(CHART, {}, *GATEWAY)
    (picker,) = objects.one("Deployment", "-epp")["spec"]["template"]["spec"]["containers"]
    assert picker["name"] == "epp"
    assert not [item for item in picker["args"] if item.startswith(("--secure-serving", "--drain-timeout"))]
    assert 9002 in {port["port"] for port in objects.one("Service", "-epp")["spec"]["ports"]}


def test_external_mode_has_no_picker() -> None:
    """Nothing of the entrance, but what upstream's own charts select: the workers and their labels."""
    objects = render(CHART, {}, "router.mode=external")
    assert not [item for item in objects if item["metadata"]["name"].endswith(("-epp", "-gateway", "-proxy"))]
    assert objects.one("Deployment", "-decode")
    assert objects.one("Service", "-workers")


def _config(objects: Rendered) -> Any:
    return yaml.safe_load(objects.one("ConfigMap", "-epp")["data"]["config.yaml"])


def _picker(objects: Rendered) -> Any:
    pod = objects.one("Deployment", "-epp")["spec"]["template"]["spec"]
    (picker,) = [item for item in (*pod.get("initContainers", ()), *pod["containers"]) if item["name"] == "epp"]
    return picker


def _rights(objects: Rendered) -> dict[tuple[str, str], set[str]]:
    return {
        (group, resource): set(rule["verbs"])
        for role in objects.of("Role")
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
