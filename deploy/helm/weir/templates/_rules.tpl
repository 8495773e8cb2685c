{{/* Rules of RBAC. The plurals of Weir's kinds; a test compares them with the CustomResourceDefinitions. */}}
{{- define "weir.plurals" -}}
- apikeys
- backends
- budgets
- cachepolicies
- consumers
- jwtissuers
- limitpolicies
- llmgateways
- loadpolicies
- referencegrants
- routes
- sessionpolicies
{{- end }}

{{/* What a watcher may do where objects are served. */}}
{{- define "weir.watchRules" -}}
- apiGroups: [weir.dev]
  resources:
    {{- include "weir.plurals" . | nindent 4 }}
  verbs: [get, list, watch]
# Conditions, by server-side apply.
- apiGroups: [weir.dev]
  resources:
    {{- range include "weir.plurals" . | fromYamlArray }}
    - {{ . }}/status
    {{- end }}
  verbs: [patch]
- apiGroups: ["", events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- with .Values.rbac.discovery }}
{{- if .services }}
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, watch]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [get, list, watch]
{{- end }}
{{- if .pods }}
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
{{- end }}
{{- if .inferencePools }}
- apiGroups: [inference.networking.k8s.io, inference.networking.x-k8s.io]
  resources: [inferencepools]
  verbs: [get, list, watch]
{{- end }}
{{- end }}
{{- end }}
