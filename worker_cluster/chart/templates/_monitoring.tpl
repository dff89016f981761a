{{/* What monitors, alerts and the dashboard share. */}}

{{/* "true" where objects of the Prometheus operator are wanted, and known. */}}
{{- define "worker-cluster.hasOperator" -}}
{{- $known := .Capabilities.APIVersions.Has "monitoring.coreos.com/v1" -}}
{{- if or (eq .Values.metrics.operator "always") (and (eq .Values.metrics.operator "auto") $known) }}true{{ end -}}
{{- end -}}

{{/* Labels of such an object; `dict "root" . "component" "epp"`. */}}
{{- define "worker-cluster.monitorLabels" -}}
{{ include "worker-cluster.labels" . }}
{{- with .root.Values.metrics.extraLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Selects the series of the endpoint picker; that of llm-d's own charts has a name of its own. */}}
{{- define "worker-cluster.eppSeries" -}}
{{- $service := printf ",service=\"%s-epp\"" (include "worker-cluster.fullname" .) -}}
{namespace="{{ .Release.Namespace }}"{{ ternary "" $service (eq .Values.router.mode "external") }}}
{{- end -}}

{{/* Selects the series of the workers. */}}
{{- define "worker-cluster.workerSeries" -}}
{namespace="{{ .Release.Namespace }}",pod=~"{{ include "worker-cluster.fullname" . }}-(decode|prefill)-.+"}
{{- end -}}
