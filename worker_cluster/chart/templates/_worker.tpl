{{/*
What the pods of decode and prefill workers are made of. All but worker-cluster.workerPod take the root as their
context; that one and those that differ by role take `dict "root" $ "role" "decode" "settings" .Values.decode`.
*/}}

{{/* How many GPUs all workers take together. */}}
{{- define "worker-cluster.gpusWanted" -}}
{{- $workers := ternary .Values.decode.replicas .Values.autoscaling.max (eq .Values.autoscaling.mode "none") | int64 -}}
{{- if .Values.disaggregation.enabled }}{{ $workers = add $workers (int64 .Values.disaggregation.prefill.replicas) }}{{ end -}}
{{- ternary (mul $workers .Values.gpu.count) 0 (eq .Values.engine.kind "vllm") -}}
{{- end -}}

{{/* Strategy of a Deployment. A new worker that waits for the GPU of the old one would wait for ever. */}}
{{- define "worker-cluster.strategy" -}}
{{- $values := .root.Values -}}
{{- $afterNext := add (include "worker-cluster.gpusWanted" .root) (int64 $values.gpu.count) -}}
{{- $room := or (ne $values.engine.kind "vllm") (ge (int64 $values.gpu.available) $afterNext) -}}
{{- $alone := and (eq $values.autoscaling.mode "none") (le (int64 .settings.replicas) 1) -}}
{{- if or (eq .settings.strategy "Recreate") (and (eq .settings.strategy "auto") $alone (not $room)) -}}
type: Recreate
{{- else if or (eq .settings.strategy "RollingUpdate") $room -}}
type: RollingUpdate
rollingUpdate: {maxSurge: 1, maxUnavailable: 0}
{{- else -}}
type: RollingUpdate
rollingUpdate: {maxSurge: 0, maxUnavailable: 1}
{{- end -}}
{{- end -}}

{{/* Labels of a worker's pods: what selects them, and what the endpoint picker reads. */}}
{{- define "worker-cluster.workerLabels" -}}
{{ include "worker-cluster.selectorLabels" (dict "root" .root "component" .role) }}
llm-d.ai/inference-serving: "true"
llm-d.ai/role: {{ .role }}
llm-d.ai/engine-type: vllm
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Arguments of vLLM and of the simulator; a decode worker behind the sidecar listens on 8200. */}}
{{- define "worker-cluster.arguments" -}}
{{- $values := .root.Values -}}
{{- $limits := $values.limits -}}
{{- $longest := $limits.maxModelLen -}}
{{- if eq $values.engine.kind "sim" -}}
{{- /* The simulator would ask for the tokenizer of a model that it knows, so it runs one that nobody does. */ -}}
- --model=simulated
{{- $native := (include "worker-cluster.params" .root | fromYaml).nativeMaxLen | int64 -}}
{{- if eq (toString $longest) "auto" }}{{ $longest = default 32768 $native }}{{ end }}
{{- else -}}
- {{ $values.model.id | quote }}
{{- end }}
- --served-model-name
- {{ include "worker-cluster.servedName" .root | quote }}
- --port={{ include "worker-cluster.enginePort" . }}
- --max-model-len={{ ternary $longest (int64 $longest) (eq (toString $longest) "auto") }}
{{- if $limits.maxNumSeqs }}
- --max-num-seqs={{ int64 $limits.maxNumSeqs }}
{{- else if eq $values.engine.kind "sim" }}
- --max-num-seqs=64
{{- end }}
{{- with $limits.maxNumQueuedReqs }}
- {{ ternary "--max-waiting-queue-length" "--max-num-queued-reqs" (eq $values.engine.kind "sim") }}={{ int64 . }}
{{- end }}
{{- with $values.model.loraModules }}
{{- if ne $values.engine.kind "sim" }}
- --enable-lora
{{- end }}
- --lora-modules
{{- range . }}
- {{ dict "name" .name "path" .path | toJson | quote }}
{{- end }}
{{- end }}
{{- if ne $values.engine.kind "sim" }}
{{- with $values.model.revision }}
- {{ printf "--revision=%s" . | quote }}
{{- end }}
- --shutdown-timeout={{ int64 $values.engine.shutdownTimeoutSeconds }}
- --disable-access-log-for-endpoints=/health,/metrics,/v1/models
{{- end }}
{{- if eq $values.engine.kind "vllm" }}
- --tensor-parallel-size={{ int64 $values.gpu.count }}
- --gpu-memory-utilization={{ $limits.gpuMemoryUtilization }}
- --kv-cache-dtype={{ $limits.kvCacheDtype }}
{{- if $values.disaggregation.enabled }}
- --kv-transfer-config={"kv_connector":"NixlConnector","kv_role":"kv_both"}
{{- end }}
{{- end }}
{{- range $values.engine.extraArgs }}
- {{ . | quote }}
{{- end }}
{{- end -}}

{{- define "worker-cluster.enginePort" -}}
{{- ternary 8200 8000 (and .root.Values.disaggregation.enabled (eq .role "decode")) -}}
{{- end -}}

{{- define "worker-cluster.enginePortName" -}}
{{- ternary "engine" "modelserver" (and .root.Values.disaggregation.enabled (eq .role "decode")) -}}
{{- end -}}

{{/*
Environment of the engine. The root file system is read-only: HOME holds what vLLM and torch compile, /models the
weights. Torch asks for the name of a user who has none.
*/}}
{{- define "worker-cluster.environment" -}}
{{- $values := .root.Values -}}
{{- if ne $values.engine.kind "sim" -}}
- {name: HOME, value: /cache}
- {name: USER, value: worker}
- {name: HF_HOME, value: /models}
- {name: VLLM_NO_USAGE_STATS, value: "1"}
{{- if and $values.networkPolicy.enabled (not $values.networkPolicy.allowModelDownload) }}
- {name: HF_HUB_OFFLINE, value: "1"}
{{- end }}
{{- with include "worker-cluster.hfSecret" .root }}
- name: HF_TOKEN
  valueFrom:
    secretKeyRef:
      name: {{ . }}
      key: {{ $values.secrets.hfToken.key }}
      optional: {{ and $values.secrets.hfToken.optional (not $values.secrets.hfToken.create) }}
{{- end }}
{{- if eq $values.engine.kind "vllm-cpu" }}
- {name: VLLM_CPU_KVCACHE_SPACE, value: {{ int64 $values.limits.cpuKvCacheGiB | quote }}}
{{- end }}
{{- if and (eq $values.engine.kind "vllm") $values.disaggregation.enabled }}
- name: VLLM_NIXL_SIDE_CHANNEL_HOST
  valueFrom: {fieldRef: {fieldPath: status.podIP}}
{{- end }}
{{- end }}
{{- with $values.engine.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Requests and limits of the engine: its own ones, what the values put in their place, and the GPUs. */}}
{{- define "worker-cluster.engineResources" -}}
{{- $values := .root.Values -}}
{{- $gpus := int64 $values.gpu.count -}}
{{- $memory := int64 $values.limits.cpuKvCacheGiB -}}
{{- $own := dict
      "vllm" (dict "requests" (dict "cpu" (toString (mul 2 $gpus)) "memory" (printf "%dGi" (mul 8 $gpus))) "limits" (dict "memory" (printf "%dGi" (mul 32 $gpus))))
      "vllm-cpu" (dict "requests" (dict "cpu" "2" "memory" (printf "%dGi" (add 4 $memory))) "limits" (dict "memory" (printf "%dGi" (add 8 $memory))))
      "sim" (dict "requests" (dict "cpu" "50m" "memory" "64Mi") "limits" (dict "memory" "256Mi")) -}}
{{- $resources := mergeOverwrite (get $own $values.engine.kind) (deepCopy .settings.resources) -}}
{{- if eq $values.engine.kind "vllm" -}}
{{- $_ := set $resources.limits $values.gpu.resource (toString $gpus) -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}

{{/* What every container may do: nothing but its work. */}}
{{- define "worker-cluster.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- define "worker-cluster.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ int64 .Values.podSecurity.runAsUser }}
runAsGroup: {{ int64 .Values.podSecurity.runAsUser }}
fsGroup: {{ int64 .Values.podSecurity.fsGroup }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* The Secret with the token of Hugging Face; empty: none. */}}
{{- define "worker-cluster.hfSecret" -}}
{{- ternary (printf "%s-hf-token" (include "worker-cluster.fullname" .)) .Values.secrets.hfToken.existingSecret .Values.secrets.hfToken.create -}}
{{- end -}}

{{/* The Secret with the keys that the entrance asks for; empty: it asks for none. */}}
{{- define "worker-cluster.routerKeysSecret" -}}
{{- ternary (printf "%s-router-keys" (include "worker-cluster.fullname" .)) .Values.secrets.routerApiKeys.existingSecret .Values.secrets.routerApiKeys.create -}}
{{- end -}}

{{/* The claim of the weights; empty: they go with the pod. */}}
{{- define "worker-cluster.modelClaim" -}}
{{- if and .Values.modelCache.enabled (ne .Values.engine.kind "sim") -}}
{{- default (printf "%s-models" (include "worker-cluster.fullname" .)) .Values.modelCache.existingClaim -}}
{{- end -}}
{{- end -}}

{{/*
The sidecar of a decode worker: it has the prompt read by the prefill worker that the endpoint picker named. As an init
container that stays, it is there before the engine and ends behind it.
*/}}
{{- define "worker-cluster.sidecar" -}}
- name: sidecar
  image: {{ include "worker-cluster.image" (dict "root" . "name" "sidecar") }}
  imagePullPolicy: IfNotPresent
  restartPolicy: Always
  args:
    - --port=8000
    - --kv-connector=nixlv2
    # Plain HTTP, in the sidecar's words; the endpoint picker calls the same --secure-serving.
    - --secure-proxy=false
  ports:
    - {name: modelserver, containerPort: 8000}
  startupProbe:
    tcpSocket: {port: modelserver}
    periodSeconds: 1
    failureThreshold: 60
  readinessProbe:
    tcpSocket: {port: modelserver}
    periodSeconds: 5
  livenessProbe:
    tcpSocket: {port: modelserver}
    periodSeconds: 10
  resources:
    {{- toYaml .Values.disaggregation.sidecar.resources | nindent 4 }}
  securityContext:
    {{- include "worker-cluster.containerSecurity" . | nindent 4 }}
{{- end -}}

{{/* Spread over nodes where that can be had, unless the values say otherwise. */}}
{{- define "worker-cluster.spread" -}}
{{- with .settings.topologySpreadConstraints -}}
{{ toYaml . }}
{{- else -}}
- maxSkew: 1
  topologyKey: kubernetes.io/hostname
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- include "worker-cluster.selectorLabels" (dict "root" .root "component" .role) | nindent 6 }}
{{- end -}}
{{- end -}}

{{/* Spec of a worker's pod. */}}
{{- define "worker-cluster.workerPod" -}}
{{- $values := .root.Values -}}
{{- $port := include "worker-cluster.enginePortName" . -}}
serviceAccountName: {{ include "worker-cluster.fullname" .root }}-worker
automountServiceAccountToken: false
enableServiceLinks: false
{{- with $values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if and $values.gpu.runtimeClassName (eq $values.engine.kind "vllm") }}
runtimeClassName: {{ $values.gpu.runtimeClassName }}
{{- end }}
{{- with $values.gpu.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.gpu.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .settings.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
topologySpreadConstraints:
  {{- include "worker-cluster.spread" . | nindent 2 }}
# The preStop sleep, the answers that still run, and room to tear down.
terminationGracePeriodSeconds: {{ add (int64 $values.engine.shutdownTimeoutSeconds) 30 }}
securityContext:
  {{- include "worker-cluster.podSecurity" .root | nindent 2 }}
{{- if and $values.disaggregation.enabled (eq .role "decode") }}
initContainers:
  {{- include "worker-cluster.sidecar" .root | nindent 2 }}
{{- end }}
containers:
  - name: modelserver
    image: {{ include "worker-cluster.engineImage" .root }}
    imagePullPolicy: {{ $values.engine.image.pullPolicy }}
    {{- if ne $values.engine.kind "sim" }}
    command: [vllm, serve]
    {{- end }}
    args:
      {{- include "worker-cluster.arguments" . | nindent 6 }}
    {{- with include "worker-cluster.environment" . | trim }}
    env:
      {{- . | nindent 6 }}
    {{- end }}
    ports:
      - {name: {{ $port }}, containerPort: {{ include "worker-cluster.enginePort" . }}}
    startupProbe:
      httpGet: {path: /v1/models, port: {{ $port }}}
      periodSeconds: 5
      timeoutSeconds: 5
      failureThreshold: {{ div (int64 $values.engine.startupTimeoutSeconds) 5 }}
    readinessProbe:
      httpGet: {path: /v1/models, port: {{ $port }}}
      periodSeconds: 5
      timeoutSeconds: 5
    livenessProbe:
      httpGet: {path: /health, port: {{ $port }}}
      periodSeconds: 10
      timeoutSeconds: 5
    lifecycle:
      # Callers hear that the pod is going before it stops to answer.
      preStop: {sleep: {seconds: 5}}
    resources:
      {{- include "worker-cluster.engineResources" . | nindent 6 }}
    securityContext:
      {{- include "worker-cluster.containerSecurity" .root | nindent 6 }}
    volumeMounts:
      - {name: tmp, mountPath: /tmp}
      {{- if ne $values.engine.kind "sim" }}
      - {name: cache, mountPath: /cache}
      - {name: models, mountPath: /models}
      - {name: shm, mountPath: /dev/shm}
      {{- end }}
volumes:
  - name: tmp
    emptyDir: {}
  {{- if ne $values.engine.kind "sim" }}
  - name: cache
    emptyDir: {}
  - name: models
    {{- with include "worker-cluster.modelClaim" .root }}
    persistentVolumeClaim: {claimName: {{ . }}}
    {{- else }}
    emptyDir: {}
    {{- end }}
  # What the processes of one engine pass to each other; it counts as memory of the container.
  - name: shm
    emptyDir: {medium: Memory, sizeLimit: {{ include "worker-cluster.tensorParallelism" .root | int64 | mul 2 }}Gi}
  {{- end }}
{{- end -}}

{{/* Annotations of a worker's pods: a changed token starts them anew. */}}
{{- define "worker-cluster.workerAnnotations" -}}
{{- if .Values.secrets.hfToken.create }}
checksum/hf-token: {{ include (print .Template.BasePath "/secret-hf.yaml") . | sha256sum }}
{{- end }}
{{- if .Values.metrics.annotations }}
prometheus.io/scrape: "true"
prometheus.io/port: "8000"
prometheus.io/path: /metrics
{{- end }}
{{- end -}}

{{/* How fast the number of workers changes: a model takes minutes to load, and is not dropped over a lull. */}}
{{- define "worker-cluster.scalingBehavior" -}}
scaleUp:
  stabilizationWindowSeconds: 0
scaleDown:
  stabilizationWindowSeconds: 300
  policies:
    - {type: Pods, value: 1, periodSeconds: 60}
{{- end -}}
