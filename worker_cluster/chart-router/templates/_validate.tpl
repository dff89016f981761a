{{/*
Combinations of values that the schema cannot judge: each wrong one is refused with a sentence that says what to do.
inference-router.validate fails with all of them at once.
*/}}

{{- define "inference-router.validate" -}}
{{- $problems := concat
      (include "inference-router.problemsOfRegistry" . | fromYamlArray)
      (include "inference-router.problemsOfScaling" . | fromYamlArray)
      (include "inference-router.problemsOfSecrets" . | fromYamlArray)
      (include "inference-router.problemsOfEntrance" . | fromYamlArray) -}}
{{- with $problems }}{{ fail (printf "\n%s" (join "\n" .)) }}{{ end -}}
{{- end -}}

{{/* Where the registry is, and how many routers share it. */}}
{{- define "inference-router.problemsOfRegistry" -}}
{{- $server := include "inference-router.hasVariable" (dict "root" . "name" "DATABASE_URL") -}}
{{- $most := include "inference-router.most" . | int64 -}}
{{- $which := ternary "replicas" "autoscaling.max" (eq .Values.autoscaling.mode "none") -}}
{{- if not .Values.image.repository }}
- "image.repository must be set to where you have pushed the router's image: build it with router/Dockerfile."
{{- end }}
{{- if and $server .Values.persistence.enabled }}
- "persistence.enabled keeps a SQLite file, which DATABASE_URL replaces: set persistence.enabled=false, or take DATABASE_URL out of the secrets."
{{- else if and (not $server) (gt $most 1) }}
- "{{ $which }}={{ $most }} routers need one registry in PostgreSQL: put DATABASE_URL into secrets.values or secrets.keys, or set {{ $which }}=1{{ if not .Values.persistence.enabled }} and persistence.enabled=true{{ end }}."
{{- else if not (or $server .Values.persistence.enabled) }}
- "The registry, with its keys, would be lost with its pod: put DATABASE_URL into secrets.values or secrets.keys, or set persistence.enabled=true for one router with a SQLite file."
{{- end }}
{{- if and .Values.manifest.content .Values.manifest.existingConfigMap }}
- "manifest.content and manifest.existingConfigMap are two manifests: set one of them."
{{- end }}
{{- end -}}

{{/* Who sets the number of routers. */}}
{{- define "inference-router.problemsOfScaling" -}}
{{- $scaling := .Values.autoscaling -}}
{{- if and (ne $scaling.mode "none") (gt (int64 $scaling.min) (int64 $scaling.max)) }}
- "autoscaling.min={{ $scaling.min }} is more than autoscaling.max={{ $scaling.max }}: swap them."
{{- end }}
{{- if and (eq $scaling.mode "hpa") (not (dig "requests" "cpu" "" .Values.resources)) }}
- "autoscaling.mode=hpa reckons in parts of the requested CPU: set resources.requests.cpu."
{{- end }}
{{- end -}}

{{/* Secrets, and who gets in. */}}
{{- define "inference-router.problemsOfSecrets" -}}
{{- $secrets := .Values.secrets -}}
{{- if and $secrets.create (not $secrets.values) }}
- "secrets.create makes a Secret of secrets.values, which is empty: set secrets.create=false, or pass the values with --set-file."
{{- end }}
{{- if and $secrets.create (or $secrets.existingSecret $secrets.keys) }}
- "secrets.create makes a Secret, and secrets.existingSecret and secrets.keys name one that is there: set one or the other."
{{- end }}
{{- if and (not $secrets.create) $secrets.values }}
- "secrets.values are in no Secret: set secrets.create=true, or make the Secret yourself and name it in secrets.existingSecret."
{{- end }}
{{- if and (not $secrets.create) (ne (empty $secrets.keys) (empty $secrets.existingSecret)) }}
- "secrets.existingSecret and secrets.keys go together: name the Secret, and the entries of it that the router gets."
{{- end }}
{{- $auth := default "required" .Values.settings.ROUTER_AUTH -}}
{{- if eq $auth "auto" }}
- "settings.ROUTER_AUTH=auto refuses to start before there is a key: leave it out, so that the router starts and lets nobody in."
{{- else if and (eq $auth "off") (not .Values.openToAll) }}
- "settings.ROUTER_AUTH=off lets everybody in who reaches the Service: leave it out, or set openToAll=true if that is meant."
{{- end }}
{{- $names := include "inference-router.secretNames" . | fromYamlArray -}}
{{- range .Values.extraEnv }}
{{- if or (has .name $names) (hasKey $.Values.settings .name) (has .name (include "inference-router.ownNames" . | splitList " ")) }}
- "extraEnv sets {{ .name }}, which the chart sets already: take it out of one of the two."
{{- end }}
{{- end }}
{{- end -}}

{{/* Variables that the chart sets from values of their own. */}}
{{- define "inference-router.ownNames" -}}
ROUTER_HOST ROUTER_PORT SQLITE_DB_PATH ROUTER_REGISTRY_FILE ROUTER_SETTLE_SECONDS ROUTER_DRAIN_SECONDS
{{- end -}}

{{/* How clients come in. */}}
{{- define "inference-router.problemsOfEntrance" -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) }}
- "ingress.enabled needs the names that clients call: set ingress.hosts."
{{- end }}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) }}
- "httpRoute.enabled needs a Gateway to hang on: set httpRoute.parentRefs."
{{- end }}
{{- end -}}
