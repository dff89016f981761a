{{/*
The guard of limits.maxModelLen: how long a context fits into one worker, reckoned as vLLM does at its start.

  cache = memory of a GPU × utilisation − its share of the weights − activations − what CUDA and NCCL keep
  token = 2 (key and value) × layers × heads on a GPU × numbers in a head × bytes of a number
  safe  = cache ÷ token ÷ minConcurrency, in whole blocks, and at most what the model was made for

Whole numbers throughout, each rounded so that the error is on the safe side.
*/}}

{{/* The numbers of the model, as YAML: those of `model.params`, else those of models.yaml, else 0. */}}
{{- define "worker-cluster.params" -}}
{{- $known := default dict (get (.Files.Get "models.yaml" | fromYaml) .Values.model.id) -}}
{{- range $name, $value := .Values.model.params }}
{{ $name }}: {{ default (default 0 (get $known $name)) $value | int64 }}
{{- end }}
{{- end -}}

{{/* What keeps the guard from reckoning, as a YAML list of values to set. */}}
{{- define "worker-cluster.capacityUnknown" -}}
{{- $params := include "worker-cluster.params" . | fromYaml -}}
{{- $wanted := list "layers" -}}
{{- if not $params.latentDim }}{{ $wanted = concat $wanted (list "kvHeads" "headDim") }}{{ end -}}
{{- if eq .Values.engine.kind "vllm" }}{{ $wanted = append $wanted "weightsMiB" }}{{ end -}}
{{- if and (eq .Values.engine.kind "vllm") (not .Values.gpu.memoryMiB) }}
- gpu.memoryMiB
{{- end -}}
{{- range $wanted }}
{{- if not (get $params .) }}
- model.params.{{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{/* GPUs that share a worker's model. */}}
{{- define "worker-cluster.tensorParallelism" -}}
{{- ternary .Values.gpu.count 1 (eq .Values.engine.kind "vllm") | int64 -}}
{{- end -}}

{{/*
Bytes that one token takes in the cache of one GPU. Heads are shared out, and a GPU keeps one at least; a latent vector
(MLA) is kept whole by every GPU.
*/}}
{{- define "worker-cluster.tokenBytes" -}}
{{- $params := include "worker-cluster.params" . | fromYaml -}}
{{- $gpus := include "worker-cluster.tensorParallelism" . | int64 -}}
{{- $numbers := int64 $params.latentDim -}}
{{- if not $numbers -}}
{{- $heads := div (add (int64 $params.kvHeads) $gpus -1) $gpus -}}
{{- $numbers = mul 2 $heads (int64 $params.headDim) -}}
{{- end -}}
{{- mul (int64 $params.layers) $numbers (ternary 1 2 (eq .Values.limits.kvCacheDtype "fp8")) -}}
{{- end -}}

{{/* MiB of one GPU, or of the host for vllm-cpu, that are left for the cache; not above 0: nothing is. */}}
{{- define "worker-cluster.cacheMiB" -}}
{{- if eq .Values.engine.kind "vllm-cpu" -}}
{{- mul .Values.limits.cpuKvCacheGiB 1024 -}}
{{- else -}}
{{- $params := include "worker-cluster.params" . | fromYaml -}}
{{- $gpus := include "worker-cluster.tensorParallelism" . | int64 -}}
{{- $taken := mulf .Values.gpu.memoryMiB .Values.limits.gpuMemoryUtilization | floor | int64 -}}
{{- $weights := div (add (int64 $params.weightsMiB) $gpus -1) $gpus -}}
{{- /* Measured on vLLM: 0.27 GiB for CUDA on one GPU, 2.1 GiB on each of several, where NCCL keeps buffers. */ -}}
{{- $runtime := ternary 277 2151 (eq $gpus 1) -}}
{{- sub $taken (add $weights (default 2048 (int64 $params.activationMiB)) $runtime) -}}
{{- end -}}
{{- end -}}

{{/* The longest context that fits; 0: not even the weights do. Only where nothing is unknown. */}}
{{- define "worker-cluster.safeMaxModelLen" -}}
{{- $native := (include "worker-cluster.params" . | fromYaml).nativeMaxLen | int64 -}}
{{- $block := ternary 128 16 (eq .Values.engine.kind "vllm-cpu") -}}
{{- $cache := mul (max 0 (include "worker-cluster.cacheMiB" . | int64)) 1048576 -}}
{{- $tokens := div $cache (include "worker-cluster.tokenBytes" .) -}}
{{- $safe := mul $block (div $tokens (mul $block .Values.limits.minConcurrency)) -}}
{{- ternary (min $safe $native) $safe (gt $native 0) -}}
{{- end -}}

{{/* One sentence on why the context does not fit and what to set; empty: it fits, or nobody knows. */}}
{{- define "worker-cluster.capacityProblem" -}}
{{- $wanted := .Values.limits.maxModelLen -}}
{{- $native := (include "worker-cluster.params" . | fromYaml).nativeMaxLen | int64 -}}
{{- if eq .Values.engine.kind "sim" -}}
{{- else if and (ne (toString $wanted) "auto") (gt $native 0) (gt (int64 $wanted) $native) -}}
limits.maxModelLen={{ int64 $wanted }} is longer than {{ .Values.model.id }} was made for: set limits.maxModelLen to {{ $native }} at most, or to auto.
{{- else if not (include "worker-cluster.capacityUnknown" . | fromYamlArray) -}}
{{- $safe := include "worker-cluster.safeMaxModelLen" . | int64 -}}
{{- $place := ternary (printf "limits.cpuKvCacheGiB=%d" (int64 .Values.limits.cpuKvCacheGiB)) (printf "%d x %d MiB of GPU memory" (int64 .Values.gpu.count) (int64 .Values.gpu.memoryMiB)) (eq .Values.engine.kind "vllm-cpu") -}}
{{- if eq $safe 0 -}}
{{ .Values.model.id }} leaves no room for its cache in {{ $place }}: {{ if eq .Values.engine.kind "vllm" }}set gpu.count to more GPUs, or model.id to a smaller model{{ else }}raise limits.cpuKvCacheGiB{{ end }}{{ if gt (int64 .Values.limits.minConcurrency) 1 }}, or lower limits.minConcurrency{{ end }}.
{{- else if and (ne (toString $wanted) "auto") (gt (int64 $wanted) $safe) -}}
limits.maxModelLen={{ int64 $wanted }} does not fit into {{ $place }} with {{ .Values.model.id }}: the largest safe value is {{ $safe }}, so set limits.maxModelLen={{ $safe }}, or auto.
{{- end -}}
{{- end -}}
{{- end -}}

{{/* One sentence for the notes where a number goes unchecked; empty: it was checked, or is auto. */}}
{{- define "worker-cluster.capacityWarning" -}}
{{- $unknown := include "worker-cluster.capacityUnknown" . | fromYamlArray -}}
{{- if and $unknown (ne (toString .Values.limits.maxModelLen) "auto") (ne .Values.engine.kind "sim") (ne .Values.limits.guard "off") -}}
limits.maxModelLen={{ int64 .Values.limits.maxModelLen }} is not checked against the memory, as {{ join ", " $unknown }} {{ ternary "is" "are" (eq (len $unknown) 1) }} unknown: set {{ ternary "it" "them" (eq (len $unknown) 1) }}, or limits.maxModelLen=auto.
{{- end -}}
{{- end -}}
