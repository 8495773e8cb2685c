{{/* The pod that serves requests.

Weir is a native sidecar (an init container that goes on) and Envoy the main container, because of the order in which such pods start and
stop: Envoy starts when Weir serves its socket, and Weir gets its SIGTERM when Envoy has ended. Before that, Envoy's preStop hook asks Weir to drain:
readiness fails, connections are still taken until load balancers have noticed, listeners close, requests run to their end, and Weir says so
by a file. Envoy has no probe of life: its admin interface is a socket of mode 0600; Weir's readiness says when Envoy does not serve. */}}
{{- define "weir.gatewayPod" -}}
{{- $fleet := eq .Values.mode "fleet" -}}
{{- $g := .Values.gateway -}}
{{- $cacheKey := $g.persistence.cacheKeySecret.name -}}
{{- if and $fleet $cacheKey }}{{ fail "gateway.persistence.cacheKeySecret is for the mode sidecar: gateways of a fleet seal what they keep by the key of their certificate" }}{{ end -}}
metadata:
  labels:
    {{- with $g.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    {{- include "weir.labels" . | nindent 4 }}
    app.kubernetes.io/component: gateway
  annotations:
    kubectl.kubernetes.io/default-container: weir
    {{- with $g.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "weir.gatewayServiceAccount" . }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ add $g.drain.delaySeconds $g.drain.timeoutSeconds 15 }}
  {{- include "weir.podSecurity" . | nindent 2 }}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- include "weir.scheduling" (dict "root" . "component" $g "name" "gateway") | nindent 2 }}
  initContainers:
    - name: bootstrap
      image: {{ include "weir.image" (dict "image" .Values.image "tag" .Chart.AppVersion) }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args:
        - bootstrap
        - --socket-dir=/run/weir
        - --output=/run/weir/envoy.json
        {{- with $g.envoy.maxConnections }}
        - --max-connections={{ int64 . }}
        {{- end }}
        {{- with $g.envoy.maxHeapBytes }}
        - --max-heap={{ int64 . }}
        {{- end }}
      resources:
        requests: {cpu: 50m, memory: 64Mi}
        limits: {memory: 128Mi}
      {{- include "weir.containerSecurity" . | nindent 6 }}
      volumeMounts:
        - {name: sockets, mountPath: /run/weir}
    - name: weir
      restartPolicy: Always
      image: {{ include "weir.image" (dict "image" .Values.image "tag" .Chart.AppVersion) }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args:
        - serve
        {{- if $fleet }}
        - --control={{ include "weir.controlHost" . }}:18000
        - --control-ca=/etc/weir/control/ca.crt
        - --control-cert=/etc/weir/control/tls.crt
        - --control-key=/etc/weir/control/tls.key
        - --allowed-routes={{ .Values.watch.allowedRoutes }}
        {{- else }}
        - --kubernetes
        {{- include "weir.watchArgs" . | nindent 8 }}
        {{- end }}
        {{- if $cacheKey }}
        - --cache-key-file=/etc/weir/cache/key
        {{- end }}
        - --socket-dir=/run/weir
        - --state-dir=/var/lib/weir
        - --admin=:8081
        - --playground={{ .Values.admin.playground }}
        {{- with .Values.admin.externalURL }}
        - --external-url={{ . }}
        {{- end }}
        {{- if .Values.admin.tokenSecret.name }}
        - --admin-token-file=/etc/weir/admin/token
        {{- end }}
        - --simulate=false
        - --drain-delay={{ $g.drain.delaySeconds }}s
        - --drain-timeout={{ $g.drain.timeoutSeconds }}s
        - --log-level={{ $g.weir.logLevel }}
        - --log-format=json
        - --access-log={{ $g.weir.accessLog }}
        {{- with $g.weir.extraArgs }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      env:
        {{- include "weir.podName" . | nindent 8 }}
        {{- with $g.weir.env }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- with $g.weir.envFrom }}
      envFrom:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      ports:
        - {name: admin, containerPort: 8081, protocol: TCP}
      {{- include "weir.probes" . | nindent 6 }}
      resources:
        {{- toYaml $g.weir.resources | nindent 8 }}
      {{- include "weir.containerSecurity" . | nindent 6 }}
      volumeMounts:
        - {name: sockets, mountPath: /run/weir}
        - {name: state, mountPath: /var/lib/weir}
        {{- if $fleet }}
        - {name: control-tls, mountPath: /etc/weir/control, readOnly: true}
        {{- else }}
        {{- include "weir.apiTokenMount" . | nindent 8 }}
        {{- end }}
        {{- if $cacheKey }}
        - {name: cache-key, mountPath: /etc/weir/cache, readOnly: true}
        {{- end }}
        {{- if .Values.admin.tokenSecret.name }}
        - {name: admin-token, mountPath: /etc/weir/admin, readOnly: true}
        {{- end }}
  containers:
    - name: envoy
      image: {{ include "weir.image" (dict "image" $g.envoy.image "tag" "v1.40.0") }}
      imagePullPolicy: {{ $g.envoy.image.pullPolicy }}
      command:
        - /usr/local/bin/envoy
        - --config-path
        - /run/weir/envoy.json
        - --disable-hot-restart
        - --concurrency
        - {{ $g.envoy.concurrency | int64 | quote }}
        - --log-level
        - {{ $g.envoy.logLevel }}
        - --drain-strategy
        - immediate
      ports:
        {{- range $g.ports }}
        - {name: {{ .name }}, containerPort: {{ .containerPort }}, protocol: TCP}
        {{- end }}
      readinessProbe:
        tcpSocket: {port: {{ (first $g.ports).name }}}
        periodSeconds: 5
        failureThreshold: 2
        timeoutSeconds: 2
      lifecycle:
        preStop:
          exec:
            command:
              - /bin/sh
              - -c
              - touch /run/weir/drain && until [ -e /run/weir/drained ]; do sleep 0.2; done
      resources:
        {{- toYaml $g.envoy.resources | nindent 8 }}
      {{- include "weir.containerSecurity" . | nindent 6 }}
      volumeMounts:
        - {name: sockets, mountPath: /run/weir}
  volumes:
    - name: sockets
      emptyDir: {medium: Memory, sizeLimit: 16Mi}
    {{- if not $g.persistence.enabled }}
    - name: state
      emptyDir: {}
    {{- end }}
    {{- if $fleet }}
    - name: control-tls
      secret:
        secretName: {{ include "weir.controlClientSecret" . }}
        defaultMode: 0440
    {{- else }}
    {{- include "weir.apiTokenVolume" . | nindent 4 }}
    {{- end }}
    {{- with $cacheKey }}
    - name: cache-key
      secret:
        secretName: {{ . }}
        defaultMode: 0440
        items:
          - {key: {{ $g.persistence.cacheKeySecret.key }}, path: key}
    {{- end }}
    {{- with .Values.admin.tokenSecret.name }}
    - name: admin-token
      secret:
        secretName: {{ . }}
        defaultMode: 0440
        items:
          - {key: {{ $.Values.admin.tokenSecret.key }}, path: token}
    {{- end }}
{{- end }}
