{{/* What the endpoint picker is told: its EndpointPickerConfig, in the words of llm-d v0.10.0. */}}

{{/*
Unknown fields and plugins keep the picker from starting, so this names only what v0.10.0 knows, and leaves out all that
it adds by itself: metrics source, parsers, saturation detector, the picker of the best score.
*/}}
{{- define "worker-cluster.eppConfig" -}}
{{- $flowControl := .Values.router.epp.flowControl -}}
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
{{- if $flowControl.enabled }}
featureGates: [flowControl]
flowControl:
  defaultRequestTTL: {{ $flowControl.ttl }}
  maxRequests: {{ int64 $flowControl.maxRequests | quote }}
  # Of every priority. Tenants, told apart by x-llm-d-inference-fairness-id, take turns within one.
  defaultPriorityBand:
    maxRequests: {{ int64 $flowControl.maxRequests | quote }}
    fairnessPolicyRef: round-robin-fairness-policy
{{- end }}
plugins:
  - type: queue-scorer
  - type: kv-cache-utilization-scorer
  - type: prefix-cache-scorer
  {{- if .Values.model.loraModules }}
  - type: lora-affinity-scorer
  {{- end }}
  {{- if $flowControl.enabled }}
  - type: round-robin-fairness-policy
  {{- end }}
  {{- if .Values.disaggregation.enabled }}
  - type: prefill-filter
  - type: decode-filter
  {{- $tokens := int64 .Values.disaggregation.minPromptTokens }}
  {{- $decider := ternary "prefix-based-pd-decider" "always-disagg-pd-decider" (gt $tokens 0) }}
  - type: {{ $decider }}
    {{- if $tokens }}
    parameters: {nonCachedTokens: {{ $tokens }}}
    {{- end }}
  - type: disagg-profile-handler
    parameters:
      deciders: {prefill: {{ $decider }}}
  {{- end }}
schedulingProfiles:
  {{- if .Values.disaggregation.enabled }}
  - name: prefill
    plugins:
      - pluginRef: prefill-filter
      {{- include "worker-cluster.eppScorers" . | nindent 6 }}
  - name: decode
    plugins:
      - pluginRef: decode-filter
      {{- include "worker-cluster.eppScorers" . | nindent 6 }}
  {{- else }}
  - name: default
    plugins:
      {{- include "worker-cluster.eppScorers" . | nindent 6 }}
  {{- end }}
{{- end -}}

{{/* The scorers of a profile; a prompt's cached beginning weighs most, as upstream has it. */}}
{{- define "worker-cluster.eppScorers" -}}
- {pluginRef: queue-scorer, weight: 2}
- {pluginRef: kv-cache-utilization-scorer, weight: 2}
- {pluginRef: prefix-cache-scorer, weight: 3}
{{- if .Values.model.loraModules }}
- {pluginRef: lora-affinity-scorer, weight: 2}
{{- end }}
{{- end -}}

{{/* "true" where workers are found through an InferencePool, which takes its CRD, else by their labels alone. */}}
{{- define "worker-cluster.usesPool" -}}
{{- if or (eq .Values.router.mode "gateway") (and (eq .Values.router.mode "standalone") (eq .Values.router.epp.discovery "pool")) }}true{{ end -}}
{{- end -}}

{{/* The labels of all workers, as a flag takes them. */}}
{{- define "worker-cluster.poolSelector" -}}
{{- $pairs := list -}}
{{- range $key, $value := include "worker-cluster.poolLabels" . | fromYaml }}{{ $pairs = append $pairs (printf "%s=%s" $key $value) }}{{ end -}}
{{- join "," $pairs -}}
{{- end -}}
