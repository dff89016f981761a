{{/* Names and labels that all templates share, and what they ask of the values. */}}

{{/* What the names of all objects begin with; short enough for the longest suffix. */}}
{{- define "inference-router.fullname" -}}
{{- default .Release.Name .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* Labels of every object. */}}
{{- define "inference-router.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{ include "inference-router.selectorLabels" . }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Labels that select the routers; they never change for a release. */}}
{{- define "inference-router.selectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: router
{{- end -}}

{{/* Reference of the image. */}}
{{- define "inference-router.image" -}}
{{- $image := .Values.image -}}
{{- $image.repository }}{{ ternary (printf "@%s" $image.digest) (printf ":%s" (default .Chart.AppVersion $image.tag)) (ne $image.digest "") -}}
{{- end -}}

{{/* Name of the Secret with the router's secrets; empty where there is none. */}}
{{- define "inference-router.secret" -}}
{{- ternary (printf "%s-secrets" (include "inference-router.fullname" .)) .Values.secrets.existingSecret .Values.secrets.create -}}
{{- end -}}

{{/* Names of the secrets that the router gets, as a list in YAML. */}}
{{- define "inference-router.secretNames" -}}
{{- toYaml (ternary (keys .Values.secrets.values | sortAlpha) .Values.secrets.keys .Values.secrets.create) -}}
{{- end -}}

{{/* "true" where a secret or a further variable has that name; `dict "root" . "name" "DATABASE_URL"`. */}}
{{- define "inference-router.hasVariable" -}}
{{- $further := list -}}
{{- range .root.Values.extraEnv }}{{ $further = append $further .name }}{{ end -}}
{{- if or (has .name (include "inference-router.secretNames" .root | fromYamlArray)) (has .name $further) }}true{{ end -}}
{{- end -}}

{{/* ConfigMap with the manifest; empty where there is none. */}}
{{- define "inference-router.manifest" -}}
{{- if .Values.manifest.content -}}
{{- include "inference-router.fullname" . }}-manifest
{{- else -}}
{{- .Values.manifest.existingConfigMap -}}
{{- end -}}
{{- end -}}

{{/* Fewest and most routers. */}}
{{- define "inference-router.fewest" -}}
{{- int64 (ternary .Values.replicas .Values.autoscaling.min (eq .Values.autoscaling.mode "none")) -}}
{{- end -}}
{{- define "inference-router.most" -}}
{{- int64 (ternary .Values.replicas .Values.autoscaling.max (eq .Values.autoscaling.mode "none")) -}}
{{- end -}}

{{/* A setting as the router reads it: Helm holds every number as a float, and writes large ones with an exponent. */}}
{{- define "inference-router.setting" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) }}{{ int64 . }}{{ else }}{{ . }}{{ end -}}
{{- end -}}
