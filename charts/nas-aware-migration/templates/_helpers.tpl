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

{{/* Whole MiB of a quantity of memory, such as 256Mi. */}}
{{- define "nasmig.mebibytes" -}}
{{- $text := . | toString }}
{{- if kindIs "float64" . }}{{ $text = . | int64 | toString }}{{ end }}
{{- $number := regexFind "^[0-9]+([.][0-9]+)?" $text }}
{{- $unit := trimPrefix $number $text }}
{{- $bytes := dict "" 1.0 "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 }}
{{- if not (and $number (hasKey $bytes $unit)) }}
{{- fail (printf "%s is no quantity of memory; write one such as 512Mi" $text) }}
{{- end }}
{{- divf (mulf (float64 $number) (get $bytes $unit)) 1048576.0 | floor | int64 }}
{{- end }}

{{/* MiB of the operator's old generation: half of its memory, for its code, young objects and buffers come on top. Empty without a limit. */}}
{{- define "nasmig.operatorHeap" -}}
{{- $limit := dig "limits" "memory" "" (.Values.resources | default dict) }}
{{- if $limit }}
{{- $heap := div (include "nasmig.mebibytes" $limit | int64) 2 }}
{{- if lt $heap 96 }}
{{- fail (printf "resources.limits.memory %v is too little: the operator needs 192Mi, and 512Mi for some thousand VMs" $limit) }}
{{- end }}
{{- $heap }}
{{- end }}
{{- end }}

{{/* Ports of the operator's container; the Services and NetworkPolicies name them. */}}
{{- define "nasmig.hubPort" -}}8443{{- end }}
{{- define "nasmig.webhookPort" -}}9443{{- end }}
{{- define "nasmig.metricsPort" -}}8080{{- end }}
