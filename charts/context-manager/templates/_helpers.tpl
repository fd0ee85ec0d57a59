{{- define "context-manager.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{/* Prefix of all names: short enough that "-controller" and hashes still fit. */}}
{{- define "context-manager.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- $name := include "context-manager.name" . }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{/* Arguments: root, component. */}}
{{- define "context-manager.selectorLabels" -}}
app.kubernetes.io/name: {{ include "context-manager.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* Arguments: root, component. */}}
{{- define "context-manager.labels" -}}
{{ include "context-manager.selectorLabels" . }}
app.kubernetes.io/part-of: context-manager
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Arguments: root, image. */}}
{{- define "context-manager.image" -}}
{{- $tag := coalesce .image.tag .root.Values.image.tag .root.Chart.AppVersion -}}
{{- if .image.digest -}}
{{ printf "%s/%s@%s" .root.Values.image.registry .image.repository .image.digest }}
{{- else -}}
{{ printf "%s/%s:%s" .root.Values.image.registry .image.repository $tag }}
{{- end -}}
{{- end }}

{{- define "context-manager.caSecret" -}}
{{ include "context-manager.fullname" . }}-webhook-ca
{{- end }}

{{/* The Secret with a certificate that the webhook does not make itself. */}}
{{- define "context-manager.certificateSecret" -}}
{{- if eq .Values.webhook.certificates.issuer "CertManager" -}}
{{ include "context-manager.fullname" . }}-webhook-tls
{{- else -}}
{{ required "webhook.certificates.issuer=Existing needs webhook.certificates.existingSecret, the name of a Secret with tls.crt, tls.key and ca.crt" .Values.webhook.certificates.existingSecret }}
{{- end -}}
{{- end }}

{{/* All that Pod Security "restricted" asks of a pod. The images name a numeric user. */}}
{{- define "context-manager.podSecurityContext" -}}
runAsNonRoot: true
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "context-manager.containerSecurityContext" -}}
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
readOnlyRootFilesystem: true
runAsNonRoot: true
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{/* What both components' pods share. Arguments: root, component, values. */}}
{{- define "context-manager.podSettings" -}}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if .values.priorityClassName }}
priorityClassName: {{ .values.priorityClassName }}
{{- else if .root.Values.priorityClass.create }}
priorityClassName: {{ include "context-manager.fullname" .root }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
affinity:
  {{- if .values.affinity }}
  {{- toYaml .values.affinity | nindent 2 }}
  {{- else }}
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels:
              {{- include "context-manager.selectorLabels" . | nindent 14 }}
  {{- end }}
securityContext:
  {{- include "context-manager.podSecurityContext" . | nindent 2 }}
{{- end }}

{{/* The pod's own value for injection: the annotation, else the label. */}}
{{- define "context-manager.podValue" -}}
object.metadata.?annotations[?"contextmanager.dev/inject"].or(object.metadata.?labels[?"contextmanager.dev/inject"])
{{- end }}

{{/* The namespaces that are served by rights in them alone, as JSON; empty when all are served. */}}
{{- define "context-manager.watchNamespaces" -}}
{{- if eq .Values.scope "Namespaced" }}
{{- if not .Values.watchNamespaces }}
{{- fail "scope: Namespaced needs watchNamespaces, the namespaces whose ContextManagers and pods are served" }}
{{- end }}
{{- if has .Release.Namespace .Values.watchNamespaces }}
{{- fail "watchNamespaces must not have the release's own namespace, whose pods are never looked at" }}
{{- end }}
{{- toJson .Values.watchNamespaces }}
{{- else }}
{{- if .Values.watchNamespaces }}
{{- fail "watchNamespaces needs scope: Namespaced" }}
{{- end }}
{{- toJson list }}
{{- end }}
{{- end }}

{{/* Milliseconds of a duration such as 1d12h: the sum of its parts, as the programs count. The schema bounds it, so that it is a number here. */}}
{{- define "context-manager.milliseconds" -}}
{{- $units := dict "ms" 1 "s" 1000 "m" 60000 "h" 3600000 "d" 86400000 "w" 604800000 }}
{{- $sum := 0 }}
{{- range regexFindAll "[0-9]+(ms|s|m|h|d|w)" . -1 }}
{{- /* With a zero in front it would be read as octal. */}}
{{- $count := regexReplaceAll "^0+" (regexFind "[0-9]+" .) "" | default "0" }}
{{- $sum = add $sum (mul (int64 $count) (get $units (regexFind "[a-z]+" .))) }}
{{- end }}
{{- $sum }}
{{- end }}

{{/* The rules of the webhook's certificates, which the program checks at its start as well: here they are said before anything is installed. */}}
{{- define "context-manager.checkCertificates" -}}
{{- $values := .Values.webhook.certificates }}
{{- $times := dict }}
{{- range list "caLifetime" "caRenewBefore" "caGrace" "leafLifetime" "poll" }}
{{- $_ := set $times . (get $values . | default "" | include "context-manager.milliseconds" | int64) }}
{{- end }}
{{- if eq $values.issuer "SelfManaged" }}
{{- if ge $times.caRenewBefore $times.caLifetime }}
{{- fail (printf "webhook.certificates.caRenewBefore (%s) must be shorter than caLifetime (%s), or the CA would be renewed as soon as it is made; shorten the one or lengthen the other" $values.caRenewBefore $values.caLifetime) }}
{{- end }}
{{- if ge (add $times.leafLifetime $times.caGrace) $times.caRenewBefore }}
{{- fail (printf "webhook.certificates.leafLifetime (%s) and caGrace (%s) must be shorter together than caRenewBefore (%s), so that no certificate is cut short by the end of its CA; shorten them, or lengthen caRenewBefore" $values.leafLifetime $values.caGrace $values.caRenewBefore) }}
{{- end }}
{{- if gt (mul 3 $times.poll) $times.leafLifetime }}
{{- fail (printf "webhook.certificates.poll (%s) must be at most a third of leafLifetime (%s), which is when a certificate is renewed before its end; shorten the one or lengthen the other" $values.poll $values.leafLifetime) }}
{{- end }}
{{- else if gt $times.poll $times.caGrace }}
{{- fail (printf "webhook.certificates.poll (%s) must be at most caGrace (%s), which is how long a certificate and the one before overlap; shorten the one or lengthen the other" $values.poll $values.caGrace) }}
{{- end }}
{{- end }}

{{/* The ports that the webhook cannot have: its own of probes and metrics, and in the node's network what every node has. */}}
{{- define "context-manager.checkPort" -}}
{{- $port := int .Values.webhook.port }}
{{- if eq $port 8081 }}
{{- fail "webhook.port 8081 is that of the webhook's probes and metrics; take another one" }}
{{- end }}
{{- $owners := dict "2379" "etcd" "2380" "etcd" "2381" "etcd" "6443" "the API server" "10248" "the kubelet" "10249" "kube-proxy" "10250" "the kubelet" "10255" "the kubelet" "10256" "kube-proxy" "10257" "the controller manager" "10259" "the scheduler" }}
{{- $owner := get $owners (toString $port) }}
{{- if and .Values.webhook.hostNetwork $owner }}
{{- fail (printf "webhook.hostNetwork needs another webhook.port than %d, which is that of %s on a node" $port $owner) }}
{{- end }}
{{- end }}

{{/* "true" unless it is switched off; values of a release from before there was such a one do not have it. */}}
{{- define "context-manager.managedQdrant" -}}
{{- if ne (toString .Values.controller.managedQdrant) "false" }}true{{ end }}
{{- end }}

{{/* The webhook's resources. An autoscaler measures by the CPU request, which is then one that a busy replica uses. */}}
{{- define "context-manager.webhookResources" -}}
{{- $resources := deepCopy (default dict .Values.webhook.resources) }}
{{- $autoscaling := .Values.webhook.autoscaling }}
{{- $requests := default dict $resources.requests }}
{{- if and $autoscaling.enabled $autoscaling.cpuRequest (has (toString (default "10m" $requests.cpu)) (list "10m" "0.01")) }}
{{- $_ := set $resources "requests" (merge (dict "cpu" $autoscaling.cpuRequest) $requests) }}
{{- end }}
{{- toYaml $resources }}
{{- end }}

{{/* A Role or ClusterRole and its binding. Arguments: root, component, name, namespace (none for the cluster), rules. */}}
{{- define "context-manager.role" -}}
{{- $kind := ternary "Role" "ClusterRole" (not (empty .namespace)) -}}
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $kind }}
metadata:
  name: {{ .name }}
  {{- with .namespace }}
  namespace: {{ . }}
  {{- end }}
  labels:
    {{- include "context-manager.labels" . | nindent 4 }}
rules:
  {{- .rules | trim | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $kind }}Binding
metadata:
  name: {{ .name }}
  {{- with .namespace }}
  namespace: {{ . }}
  {{- end }}
  labels:
    {{- include "context-manager.labels" . | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: {{ $kind }}
  name: {{ .name }}
subjects:
  - kind: ServiceAccount
    name: {{ .name }}
    namespace: {{ .root.Release.Namespace }}
{{- end }}
