{{/*
Every image of the chart, pinned here and nowhere else: what llm-d v0.10.0 was tested with, and of Envoy the release whose
binary the tests run. Its image has bash, which drains it, so it is not the distroless one.
*/}}

{{- define "worker-cluster.images" -}}
vllm: {registry: docker.io, repository: vllm/vllm-openai, tag: v0.30.0}
vllm-cpu: {registry: docker.io, repository: vllm/vllm-openai-cpu, tag: v0.30.0}
sim: {registry: ghcr.io, repository: llm-d/llm-d-inference-sim, tag: v0.10.2}
sidecar: {registry: ghcr.io, repository: llm-d/llm-d-router-disagg-sidecar, tag: v0.10.0}
epp: {registry: ghcr.io, repository: llm-d/llm-d-router-endpoint-picker, tag: v0.10.0}
envoy: {registry: docker.io, repository: envoyproxy/envoy, tag: v1.40.0}
curl: {registry: docker.io, repository: curlimages/curl, tag: 8.17.0}
{{- end -}}

{{/* Reference of an image by its name above, from the mirror if there is one; `dict "root" $ "name" "epp"`. */}}
{{- define "worker-cluster.image" -}}
{{- $image := get (include "worker-cluster.images" . | fromYaml) .name -}}
{{- printf "%s/%s:%s" (default $image.registry .root.Values.imageRegistry) $image.repository $image.tag -}}
{{- end -}}

{{/* Reference of the engine's image: that of its kind, with what `engine.image` puts in its place. */}}
{{- define "worker-cluster.engineImage" -}}
{{- $own := .Values.engine.image -}}
{{- $image := get (include "worker-cluster.images" . | fromYaml) .Values.engine.kind -}}
{{- $repository := printf "%s/%s" (default $image.registry .Values.imageRegistry) $image.repository -}}
{{- if $own.repository }}{{ $repository = $own.repository }}{{ end -}}
{{- $reference := ternary (printf "@%s" $own.digest) (printf ":%s" (default $image.tag $own.tag)) (ne $own.digest "") -}}
{{- printf "%s%s" $repository $reference -}}
{{- end -}}
