{{/* Names and labels that all templates share. */}}

{{/* What the names of all objects begin with; short enough for the longest suffix. */}}
{{- define "worker-cluster.fullname" -}}
{{- default .Release.Name .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* Labels of every object; `dict "root" $ "component" "decode"`. */}}
{{- define "worker-cluster.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{ include "worker-cluster.selectorLabels" . }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Labels that select the pods of one component; they never change for a release. */}}
{{- define "worker-cluster.selectorLabels" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* Labels that select all workers, whatever their role: what the endpoint picker chooses from. */}}
{{- define "worker-cluster.poolLabels" -}}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
llm-d.ai/inference-serving: "true"
{{- end -}}

{{/* The name that clients ask for. */}}
{{- define "worker-cluster.servedName" -}}
{{- default .Values.model.id .Values.model.servedName -}}
{{- end -}}

{{/*
URL of the entrance from within the cluster. The Service of a Gateway is made by its controller, which gives it the
Gateway's name, Istio with the class behind it.
*/}}
{{- define "worker-cluster.entrance" -}}
{{- $name := printf "%s-gateway" (include "worker-cluster.fullname" .) -}}
{{- if eq .Values.router.mode "external" -}}
http://{{ include "worker-cluster.fullname" . }}-workers.{{ .Release.Namespace }}.svc:8000
{{- else if eq .Values.router.mode "gateway" -}}
{{- $gateway := ternary $name .Values.gateway.existingName .Values.gateway.create -}}
{{- $namespace := ternary .Release.Namespace (default .Release.Namespace .Values.gateway.existingNamespace) .Values.gateway.create -}}
http://{{ $gateway }}{{ ternary "-istio" "" (eq .Values.gateway.className "istio") }}.{{ $namespace }}.svc:{{ int64 .Values.gateway.listenerPort }}
{{- else -}}
http://{{ $name }}.{{ .Release.Namespace }}.svc{{ with int64 .Values.service.port }}{{ if ne . 80 }}:{{ . }}{{ end }}{{ end }}
{{- end -}}
{{- end -}}
