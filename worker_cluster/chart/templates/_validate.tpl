{{/*
Combinations of values that the schema cannot judge: each wrong one is refused with a sentence that says what to do.
worker-cluster.validate fails with all of them at once.
*/}}

{{- define "worker-cluster.validate" -}}
{{- $problems := concat
      (include "worker-cluster.problemsOfWorkers" . | fromYamlArray)
      (include "worker-cluster.problemsOfScaling" . | fromYamlArray)
      (include "worker-cluster.problemsOfEngine" . | fromYamlArray)
      (include "worker-cluster.problemsOfSecrets" . | fromYamlArray)
      (include "worker-cluster.problemsOfEntrance" . | fromYamlArray) -}}
{{- with $problems }}{{ fail (printf "\n%s" (join "\n" .)) }}{{ end -}}
{{- end -}}

{{/* Workers against the GPUs that there are. */}}
{{- define "worker-cluster.problemsOfWorkers" -}}
{{- $values := .Values -}}
{{- $available := int64 $values.gpu.available -}}
{{- $wanted := include "worker-cluster.gpusWanted" . | int64 -}}
{{- $onGpus := eq $values.engine.kind "vllm" -}}
{{- if $values.disaggregation.enabled }}
{{- if eq $values.engine.kind "vllm-cpu" }}
- "disaggregation.enabled needs engine.kind=vllm, or sim to try it: the cache goes from GPU to GPU."
{{- end }}
{{- if or (lt (int64 $values.decode.replicas) 1) (lt (int64 $values.disaggregation.prefill.replicas) 1) }}
- "disaggregation.enabled needs a worker of each role: set decode.replicas and disaggregation.prefill.replicas to 1 at least."
{{- end }}
{{- if and $onGpus (lt $available 2) }}
- "disaggregation.enabled takes two GPUs at least, one to read prompts and one to answer: set disaggregation.enabled=false, or gpu.available to the number of GPUs in the cluster."
{{- else if and $onGpus (gt $wanted $available) }}
- "decode.replicas, disaggregation.prefill.replicas and gpu.count ask for {{ $wanted }} GPUs together and gpu.available says that there are {{ $available }}: lower one of them."
{{- end }}
{{- else if and $onGpus (gt $available 0) (gt $wanted $available) }}
- "{{ ternary "decode.replicas" "autoscaling.max" (eq $values.autoscaling.mode "none") }} and gpu.count ask for {{ $wanted }} GPUs and gpu.available says that there are {{ $available }}: lower one of them."
{{- end }}
{{- end -}}

{{/* Who sets the number of workers. */}}
{{- define "worker-cluster.problemsOfScaling" -}}
{{- $scaling := .Values.autoscaling -}}
{{- if and (ne $scaling.mode "none") .Values.disaggregation.enabled }}
- "autoscaling.mode={{ $scaling.mode }} works on workers that are all alike: set autoscaling.mode=none, or disaggregation.enabled=false."
{{- end }}
{{- if and (ne $scaling.mode "none") (gt (int64 $scaling.min) (int64 $scaling.max)) }}
- "autoscaling.min={{ $scaling.min }} is more than autoscaling.max={{ $scaling.max }}: swap them."
{{- end }}
{{- if $scaling.keda.scaleToZero }}
{{- if ne $scaling.mode "keda" }}
- "autoscaling.keda.scaleToZero needs autoscaling.mode=keda, as nothing else can start the first worker."
{{- else if and (ne .Values.router.mode "external") (not .Values.router.epp.flowControl.enabled) }}
- "autoscaling.keda.scaleToZero needs router.epp.flowControl.enabled=true, which holds requests until the first worker is up."
{{- end }}
{{- end }}
{{- end -}}

{{/* The engine, its memory, and arguments that values of their own set. */}}
{{- define "worker-cluster.problemsOfEngine" -}}
{{- $values := .Values -}}
{{- if and (eq $values.limits.guard "enforce") (ne (toString $values.limits.maxModelLen) "auto") }}
{{- with include "worker-cluster.capacityProblem" . }}
- {{ . | quote }}
{{- end }}
{{- end }}
{{- if and (eq $values.limits.kvCacheDtype "fp8") (ne $values.engine.kind "vllm") }}
- "limits.kvCacheDtype=fp8 needs engine.kind=vllm: set it to auto."
{{- end }}
{{- $owned := dict "--model" "model.id" "--served-model-name" "model.servedName" "--revision" "model.revision"
      "--lora-modules" "model.loraModules" "--max-model-len" "limits.maxModelLen"
      "--gpu-memory-utilization" "limits.gpuMemoryUtilization" "--kv-cache-dtype" "limits.kvCacheDtype"
      "--max-num-seqs" "limits.maxNumSeqs" "--max-num-queued-reqs" "limits.maxNumQueuedReqs"
      "--tensor-parallel-size" "gpu.count" "-tp" "gpu.count" "--shutdown-timeout" "engine.shutdownTimeoutSeconds"
      "--kv-transfer-config" "disaggregation.enabled" -}}
{{- range $values.engine.extraArgs }}
{{- /* vLLM takes --max_model_len for --max-model-len. */}}
{{- $flag := regexReplaceAll "[= ].*" . "" | replace "_" "-" }}
{{- if hasKey $owned $flag }}
- "engine.extraArgs holds {{ $flag }}, which the chart sets: set {{ get $owned $flag }} in its place."
{{- else if eq $flag "--port" }}
- "engine.extraArgs holds --port, which probes and Services rely on: take it out."
{{- else if eq $flag "--api-key" }}
- "engine.extraArgs holds --api-key, which the probes do not know: set secrets.routerApiKeys, so that the entrance asks for keys."
{{- end }}
{{- end }}
{{- $variables := list }}
{{- range include "worker-cluster.environment" (dict "root" . "role" "decode") | fromYamlArray }}{{ $variables = append $variables .name }}{{ end }}
{{- range $values.engine.extraEnv }}
{{- if eq .name "VLLM_API_KEY" }}
- "engine.extraEnv holds VLLM_API_KEY, which the probes do not know: set secrets.routerApiKeys, so that the entrance asks for keys."
{{- else if and (eq .name "HF_TOKEN") (hasKey . "value") }}
- "engine.extraEnv holds HF_TOKEN in plain text: set secrets.hfToken in its place."
{{- else if gt (len $variables) (add1 (len (without $variables .name))) }}
- "engine.extraEnv holds {{ .name }}, which is set already: take it out."
{{- end }}
{{- end }}
{{- end -}}

{{/* Secrets and claims that are made here, or there already, never both. */}}
{{- define "worker-cluster.problemsOfSecrets" -}}
{{- $keys := .Values.secrets.routerApiKeys -}}
{{- if and $keys.create $keys.existingSecret }}
- "secrets.routerApiKeys names an existingSecret and asks for one to be made: set create=false, or leave existingSecret empty."
{{- end }}
{{- if and (or $keys.create $keys.existingSecret) (ne .Values.router.mode "standalone") }}
- "secrets.routerApiKeys works with router.mode=standalone, whose Envoy asks for them: let your own gateway ask for keys, and leave these empty."
{{- end }}
{{- if and .Values.modelCache.existingClaim (not .Values.modelCache.enabled) }}
- "modelCache.existingClaim is set while modelCache.enabled=false: set it to true, or leave the claim empty."
{{- end }}
{{- end -}}

{{/* The names of the objects, and the way in. */}}
{{- define "worker-cluster.problemsOfEntrance" -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" (include "worker-cluster.fullname" .)) }}
- "Services cannot be named after the release {{ .Release.Name }}: set fullnameOverride to a name of letters, digits and dashes that begins with a letter."
{{- end }}
{{- if eq .Values.router.mode "gateway" }}
{{- if and .Values.gateway.create (not .Values.gateway.className) }}
- "router.mode=gateway needs gateway.className, for instance agentgateway or istio."
{{- else if and (not .Values.gateway.create) (not .Values.gateway.existingName) }}
- "router.mode=gateway with gateway.create=false needs gateway.existingName, the Gateway to attach to."
{{- end }}
{{- end }}
{{- end -}}

{{/* What is allowed and may still surprise, for the notes; a YAML list of sentences. */}}
{{- define "worker-cluster.warnings" -}}
{{- $values := .Values -}}
{{- with include "worker-cluster.capacityWarning" . }}
- {{ . | quote }}
{{- end }}
{{- if or (eq $values.limits.guard "warn") (and (eq $values.limits.guard "enforce") (eq (toString $values.limits.maxModelLen) "auto")) }}
{{- with include "worker-cluster.capacityProblem" . }}
- {{ . | quote }}
{{- end }}
{{- end }}
{{- $surges := contains "maxSurge: 1" (include "worker-cluster.strategy" (dict "root" . "settings" $values.decode)) -}}
{{- $several := or (gt (int64 $values.decode.replicas) 1) (ne $values.autoscaling.mode "none") $values.disaggregation.enabled $surges -}}
{{- if and (include "worker-cluster.modelClaim" .) (not $values.modelCache.existingClaim) $several (not (has "ReadWriteMany" $values.modelCache.accessModes)) }}
- "workers on different nodes cannot share a {{ first $values.modelCache.accessModes }} volume: on more than one node, set modelCache.accessModes={ReadWriteMany} or modelCache.enabled=false."
{{- end }}
{{- if $values.autoscaling.keda.scaleToZero }}
- "a request that wakes the first worker waits {{ $values.router.epp.flowControl.ttl }} at most (router.epp.flowControl.ttl): set that higher than your model takes to load."
{{- end }}
{{- if and (eq $values.autoscaling.mode "keda") (ne $values.router.mode "external") (or (eq $values.metrics.operator "never") (not $values.metrics.serviceMonitor)) }}
- "autoscaling.mode=keda asks Prometheus what the endpoint picker holds, and nothing here makes Prometheus read it: set metrics.serviceMonitor=true and metrics.operator=auto."
{{- end }}
{{- end -}}
