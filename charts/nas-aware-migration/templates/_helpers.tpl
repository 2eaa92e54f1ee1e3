{{/*
Objects have fixed names, not names made from the release's: the operator's Lease, CA and webhook are one per cluster, and so a
second installation is refused by Helm instead of fighting with the first.
*/}}
{{- define "nasmig.name" -}}
nas-aware-migration
{{- end }}

{{- define "nasmig.selectorLabels" -}}
app.kubernetes.io/name: {{ include "nasmig.name" . }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "nasmig.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/name: {{ include "nasmig.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: {{ include "nasmig.name" . }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{/* The digest wins over the tag: with it, every sidecar of a release is the same bytes. */}}
{{- define "nasmig.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}
{{- end }}

{{/* Not empty where the API server has our policies already. */}}
{{- define "nasmig.hasPolicies" -}}
{{- if .Capabilities.APIVersions.Has "nasmigration.io/v1alpha1/NasMigrationPolicy" }}yes{{ end }}
{{- end }}

{{/* Whose the policy `default` is: `nobody`, `ours` when this release made it, also before an uninstall that left it, or `theirs`. */}}
{{- define "nasmig.defaultPolicyOwner" -}}
{{- $there := dict }}
{{- if include "nasmig.hasPolicies" . }}
{{- $there = lookup "nasmigration.io/v1alpha1" "NasMigrationPolicy" "" "default" }}
{{- end }}
{{- $marks := dig "metadata" "annotations" dict $there }}
{{- if not $there -}}
nobody
{{- else if and (eq (get $marks "meta.helm.sh/release-name") .Release.Name) (eq (get $marks "meta.helm.sh/release-namespace") .Release.Namespace) -}}
ours
{{- else -}}
theirs
{{- end }}
{{- end }}

{{/* Ports of the operator's container; the Services and NetworkPolicies name them. */}}
{{- define "nasmig.hubPort" -}}8443{{- end }}
{{- define "nasmig.webhookPort" -}}9443{{- end }}
{{- define "nasmig.metricsPort" -}}8080{{- end }}
