{{- define "understudy.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- /* 46 leaves room for the longest suffix within the 63 characters of a name: "-controller-state". */ -}}
{{- define "understudy.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 46 | trimSuffix "-" }}
{{- else if contains (include "understudy.name" .) .Release.Name }}
{{- .Release.Name | trunc 46 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "understudy.name" .) | trunc 46 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "understudy.selector" -}}
app.kubernetes.io/name: {{ include "understudy.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- /* The metadata of an object but its name: what is common, then what is given. */ -}}
{{- define "understudy.metadata" -}}
{{- $labels := dict
  "app.kubernetes.io/name" (include "understudy.name" .root)
  "app.kubernetes.io/instance" .root.Release.Name
  "app.kubernetes.io/version" (.root.Chart.AppVersion | replace "+" "_")
  "app.kubernetes.io/managed-by" .root.Release.Service
  "helm.sh/chart" (printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_") }}
{{- with .component }}{{ $_ := set $labels "app.kubernetes.io/component" . }}{{ end -}}
labels:
  {{- merge $labels (.labels | default dict) .root.Values.commonLabels | toYaml | nindent 2 }}
{{- with merge (dict) (.annotations | default dict) .root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "understudy.image" -}}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag }}{{ end }}
{{- end }}

{{- define "understudy.ownImage" -}}
{{- include "understudy.image" (dict "repository" .Values.image.repository "digest" .Values.image.digest "tag" (default .Chart.AppVersion .Values.image.tag)) }}
{{- end }}

{{- define "understudy.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- default (printf "%s-controller" (include "understudy.fullname" .)) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "understudy.isOnServer" -}}
{{- if or .url .existingSecret.name }}true{{ end }}
{{- end }}

{{- /* Whether SQLite needs a place. */ -}}
{{- define "understudy.needsVolume" -}}
{{- if not (and (include "understudy.isOnServer" .Values.ledger) (include "understudy.isOnServer" .Values.stream)) }}true{{ end }}
{{- end }}

{{- define "understudy.ownsClaim" -}}
{{- with .Values.controller.persistence }}
{{- if and (include "understudy.needsVolume" $) .enabled (not .existingClaim) }}true{{ end }}
{{- end }}
{{- end }}

{{- define "understudy.url" -}}
- name: {{ .variable }}
  valueFrom:
    secretKeyRef:
      name: {{ default (printf "%s-urls" (include "understudy.fullname" .root)) .place.existingSecret.name }}
      key: {{ if .place.existingSecret.name }}{{ .place.existingSecret.key }}{{ else }}{{ .key }}{{ end }}
{{- end }}

{{- define "understudy.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- /* One user for all: Envoy writes the log, and whoever ships it renames and deletes it. */ -}}
{{- define "understudy.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "understudy.scheduling" -}}
{{- with .pods.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .pods.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .pods.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .pods.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
topologySpreadConstraints:
  {{- if .pods.topologySpreadConstraints }}
  {{- toYaml .pods.topologySpreadConstraints | nindent 2 }}
  {{- else }}
  {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "understudy.selector" $ | nindent 8 }}
  {{- end }}
  {{- end }}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{- /* The namespaces that Roles are made in; none for all. */ -}}
{{- define "understudy.namespaces" -}}
{{- if has "*" .Values.watchNamespaces }}{{ toJson (list) }}
{{- else }}{{ .Values.watchNamespaces | default (list .Release.Namespace) | uniq | toJson }}
{{- end }}
{{- end }}

{{- /* What the controller does in a namespace with models. */ -}}
{{- define "understudy.rules" -}}
- apiGroups: [understudy.dev]
  resources: [rolloutpolicies]
  verbs: [list, watch]
- apiGroups: [understudy.dev]
  resources: [rolloutpolicies/status]
  verbs: [patch]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [list, watch, patch]
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [list, watch, patch]
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, watch, create, patch]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [list, watch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- if .Values.targets.gateway }}
- apiGroups: [gateway.networking.k8s.io]
  resources: [httproutes]
  verbs: [get, list, watch, patch]
{{- end }}
{{- if .Values.targets.kserve }}
- apiGroups: [serving.kserve.io]
  resources: [inferenceservices]
  verbs: [get, list, watch, patch]
{{- end }}
{{- end }}
