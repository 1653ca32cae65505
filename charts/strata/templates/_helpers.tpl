{{- define "strata.name" -}}
{{- if contains "strata" .Release.Name -}}{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else -}}{{ printf "%s-strata" .Release.Name | trunc 40 | trimSuffix "-" }}{{- end -}}
{{- end -}}

{{- define "strata.labels" -}}
app.kubernetes.io/name: strata
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "strata.selector" -}}
app.kubernetes.io/name: strata
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "strata.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{- define "strata.secret.controller" -}}
{{- if eq .Values.agentTLS.mode "existing" }}{{ .Values.agentTLS.controllerSecret }}
{{- else }}{{ include "strata.name" . }}-controller-tls{{ end -}}
{{- end -}}

{{- define "strata.secret.node" -}}
{{- if eq .Values.agentTLS.mode "existing" }}{{ .Values.agentTLS.nodeSecret }}
{{- else }}{{ include "strata.name" . }}-node-tls{{ end -}}
{{- end -}}

{{/* The names that the two sides expect in each other's certificate. */}}
{{- define "strata.identity.controller" -}}controller.{{ .Values.driverName }}{{- end -}}
{{- define "strata.identity.node" -}}node.{{ .Values.driverName }}{{- end -}}

{{- define "strata.env.common" -}}
- name: STRATA_LOG_FORMAT
  value: {{ .Values.log.format | quote }}
- name: RUST_LOG
  value: {{ .Values.log.level | quote }}
- name: STRATA_DRIVER_NAME
  value: {{ .Values.driverName | quote }}
{{- with .Values.traces }}
{{- if .endpoint }}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ .endpoint | quote }}
- name: OTEL_TRACES_SAMPLER
  value: parentbased_traceidratio
- name: OTEL_TRACES_SAMPLER_ARG
  value: {{ .sampleRatio | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Of unprivileged containers that use a socket which a privileged one made, or makes for them. */}}
{{- define "strata.selinux" -}}
{{- with .Values.seLinuxType -}}
seLinuxOptions: {type: {{ . }}}
{{- end -}}
{{- end -}}

{{/* Refuses what the schema cannot tell. */}}
{{- define "strata.check" -}}
{{- if not .Values.shares }}
{{- fail "shares is empty: name at least one, for example --set shares[0].source=gluster1.example:/volumes" }}
{{- end }}
{{- if and .Values.controller.softDepth .Values.controller.hardDepth (gt (int .Values.controller.softDepth) (int .Values.controller.hardDepth)) }}
{{- fail "controller.softDepth is above controller.hardDepth: chains would be refused before they are shortened" }}
{{- end }}
{{- if and .Values.backup.enabled .Values.controller.repositoriesSecret }}
{{- fail "controller.repositoriesSecret is for backup.enabled=false: with backups, repositories are BackupRepository objects" }}
{{- end }}
{{- end -}}
