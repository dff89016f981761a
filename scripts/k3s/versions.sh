# shellcheck shell=bash disable=SC2034
# What k3s-up fetches: versions, addresses, checksums. Nothing else of it names a version.
#
# A download whose checksum is pinned here has to match it. One whose pin is empty is compared with the checksum that
# its publisher has beside it, which finds a broken download but not a publisher who was broken into; one without
# either has TLS alone, and its checksum goes to the log, to be pinned. A variable that is set before wins, so another
# version is `K3S_VERSION=… K3S_SHA256_AMD64=… make k3s-up`, or `K3S_SHA256_AMD64=` for the published checksum.
#
# The pins are the publishers' own, read where they are on record (release notes, others' lock files). They were not
# taken from a download of this project's: none can be made where it is developed.

# https://github.com/k3s-io/k3s/releases; of the channel `stable`.
K3S_VERSION="${K3S_VERSION-v1.36.4+k3s1}"
K3S_SHA256_AMD64="${K3S_SHA256_AMD64-835873f37245fc615f547a2fe2af9402a347875f13fa64a1f136de644955ea3f}"
K3S_SHA256_ARM64="${K3S_SHA256_ARM64-c920706346d5ad4e5cd3c7bf1bb09ce71ebe07fec829e513e40f1caf98aed8bb}"
K3S_INSTALL_SHA256="${K3S_INSTALL_SHA256-46177d4c99440b4c0311b67233823a8e8a2fc09693f6c89af1a7161e152fbfad}"
# What the chart asks for (`kubeVersion`); an older k3s is not touched.
KUBERNETES_MINOR_MIN=30

# https://github.com/helm/helm/releases; fetched only where there is no helm of 3.14 or newer.
HELM_VERSION="${HELM_VERSION-v4.2.4}"
HELM_SHA256_AMD64="${HELM_SHA256_AMD64-c306b46f719b0a4da32d0f78ee21bf90ce8d602f15b22ab753f0674d1670a7f3}"
HELM_SHA256_ARM64="${HELM_SHA256_ARM64-564de2191b881e9f71b5606b25345821ea1682f06ab90499d3ab22b530176da1}"

# https://github.com/NVIDIA/k8s-device-plugin; this pin is on record in one place only.
DEVICE_PLUGIN_REPOSITORY=https://nvidia.github.io/k8s-device-plugin
DEVICE_PLUGIN_VERSION="${DEVICE_PLUGIN_VERSION-0.19.3}"
DEVICE_PLUGIN_SHA256="${DEVICE_PLUGIN_SHA256-8f01067500e712508fe55fe060b6f895814dc7efc1cb96323db2ce4f777f6e96}"

# For --route gateway: what llm-d v0.10.0 was tested with. No checksum of the last three is on record.
GATEWAY_API_VERSION="${GATEWAY_API_VERSION-v1.5.1}"
GATEWAY_API_SHA256="${GATEWAY_API_SHA256-751002b3b91a87f7ae3bd2517c79a47a8d7ed6702901808a1cf9bd97d284f9b8}"
INFERENCE_EXTENSION_VERSION="${INFERENCE_EXTENSION_VERSION-v1.6.0}"
INFERENCE_EXTENSION_SHA256="${INFERENCE_EXTENSION_SHA256-}"
LLMD_ROUTER_VERSION="${LLMD_ROUTER_VERSION-v0.10.0}"
LLMD_ROUTER_SHA256="${LLMD_ROUTER_SHA256-}"
AGENTGATEWAY_CHARTS=oci://cr.agentgateway.dev/charts
AGENTGATEWAY_VERSION="${AGENTGATEWAY_VERSION-v1.4.1}"
