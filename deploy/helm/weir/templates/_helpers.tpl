{{/* Names and labels. */}}
{{- define "weir.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "weir.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "weir.name" .) .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "weir.name" .) | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* What never changes over the life of a release: selectors use it. */}}
{{- define "weir.selector" -}}
app.kubernetes.io/name: {{ include "weir.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "weir.labels" -}}
{{ include "weir.selector" . }}
app.kubernetes.io/part-of: weir
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* image gives the reference of {repository, tag, digest}, with a tag for where none is given. */}}
{{- define "weir.image" -}}
{{- $i := .image }}
{{- if $i.digest }}
{{- printf "%s@%s" $i.repository $i.digest }}
{{- else }}
{{- printf "%s:%s" $i.repository (default .tag $i.tag) }}
{{- end }}
{{- end }}

{{- define "weir.gatewayServiceAccount" -}}
{{- default (ternary (include "weir.fullname" .) "default" .Values.gateway.serviceAccount.create) .Values.gateway.serviceAccount.name }}
{{- end }}

{{- define "weir.controlServiceAccount" -}}
{{- default (ternary (printf "%s-control" (include "weir.fullname" .)) "default" .Values.control.serviceAccount.create) .Values.control.serviceAccount.name }}
{{- end }}

{{/* The account of whoever watches the Kubernetes API. */}}
{{- define "weir.watcher" -}}
{{- if eq .Values.mode "fleet" }}{{ include "weir.controlServiceAccount" . }}{{ else }}{{ include "weir.gatewayServiceAccount" . }}{{ end }}
{{- end }}

{{- define "weir.watcherSubjects" -}}
- kind: ServiceAccount
  name: {{ include "weir.watcher" . }}
  namespace: {{ .Release.Namespace }}
{{- end }}

{{- define "weir.controlHost" -}}
{{ printf "%s-control.%s.svc" (include "weir.fullname" .) .Release.Namespace }}
{{- end }}

{{- define "weir.controlServerSecret" -}}
{{- if eq .Values.control.tls.source "existing" }}{{ required "control.tls.existing.serverSecret is missing: name the Secret with the control plane's certificate" .Values.control.tls.existing.serverSecret }}{{ else }}{{ include "weir.fullname" . }}-control-tls{{ end }}
{{- end }}

{{- define "weir.controlClientSecret" -}}
{{- if eq .Values.control.tls.source "existing" }}{{ required "control.tls.existing.clientSecret is missing: name the Secret with the gateways' certificate" .Values.control.tls.existing.clientSecret }}{{ else }}{{ include "weir.fullname" . }}-client-tls{{ end }}
{{- end }}

{{/* Who may connect to the control plane: gateways of this release, by the name in the certificate that the chart asks for; else whom values name. */}}
{{- define "weir.controlAllows" -}}
{{- if eq .Values.control.tls.source "certManager" }}
- --allow={{ include "weir.gatewayDNSName" . }}
{{- end }}
{{- range .Values.control.tls.allow }}
- --allow={{ . }}
{{- end }}
{{- end }}

{{- define "weir.gatewayDNSName" -}}
{{ printf "%s-gateway.%s.svc" (include "weir.fullname" .) .Release.Namespace }}
{{- end }}

{{/* One user for Envoy and Weir: their sockets have mode 0600. */}}
{{- define "weir.podSecurity" -}}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- end }}

{{- define "weir.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  capabilities:
    drop: [ALL]
  privileged: false
  readOnlyRootFilesystem: true
{{- end }}

{{- define "weir.podName" -}}
- name: POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: POD_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
{{- end }}

{{/* The token of the service account, for the container that needs it alone. */}}
{{- define "weir.apiTokenVolume" -}}
- name: kube-api-access
  projected:
    defaultMode: 0440
    sources:
      - serviceAccountToken:
          path: token
          expirationSeconds: 3607
      - configMap:
          name: kube-root-ca.crt
          items:
            - {key: ca.crt, path: ca.crt}
      - downwardAPI:
          items:
            - path: namespace
              fieldRef:
                fieldPath: metadata.namespace
{{- end }}

{{- define "weir.apiTokenMount" -}}
- name: kube-api-access
  mountPath: /var/run/secrets/kubernetes.io/serviceaccount
  readOnly: true
{{- end }}

{{/* What decides where the pods of a component run. */}}
{{- define "weir.scheduling" -}}
{{- with .component.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .component.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .component.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .component.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if .component.topologySpread.enabled }}
topologySpreadConstraints:
  {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: {{ $.component.topologySpread.whenUnsatisfiable }}
    labelSelector:
      matchLabels:
        {{- include "weir.selector" $.root | nindent 8 }}
        app.kubernetes.io/component: {{ $.name }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Probes of the admin address. */}}
{{- define "weir.probes" -}}
startupProbe:
  httpGet: {path: /healthz, port: admin}
  periodSeconds: 2
  failureThreshold: 60
  timeoutSeconds: 2
readinessProbe:
  httpGet: {path: /readyz, port: admin}
  periodSeconds: 5
  failureThreshold: 2
  timeoutSeconds: 3
livenessProbe:
  httpGet: {path: /healthz, port: admin}
  periodSeconds: 10
  failureThreshold: 6
  timeoutSeconds: 5
{{- end }}

{{/* What a watcher of the Kubernetes API is told of it. */}}
{{- define "weir.watchArgs" -}}
- --install-name={{ include "weir.fullname" . }}
- --allowed-routes={{ .Values.watch.allowedRoutes }}
{{- range .Values.watch.namespaces }}
- --namespace={{ . }}
{{- end }}
{{- range .Values.watch.gateways }}
- --gateway={{ . }}
{{- end }}
{{- range .Values.watch.localSecrets }}
- --local-secrets={{ . }}
{{- end }}
{{- end }}
