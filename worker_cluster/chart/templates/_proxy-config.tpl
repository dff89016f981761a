{{/* What Envoy is told in standalone mode; the endpoint picker of its pod names the worker of each request. */}}

{{/* Seconds that Envoy waits for the picker: a little longer than a request may queue there. Envoy takes an hour at most. */}}
{{- define "worker-cluster.pickSeconds" -}}
{{- $ttl := ternary (trimSuffix "s" .Values.router.epp.flowControl.ttl | int) 0 .Values.router.epp.flowControl.enabled -}}
{{- min (add $ttl 30) 3600 -}}
{{- end -}}

{{/* Seconds that nothing may move on a request: silence within an answer, or the wait for a worker. */}}
{{- define "worker-cluster.idleSeconds" -}}
{{- max (trimSuffix "s" .Values.router.proxy.idleTimeout | int) (include "worker-cluster.pickSeconds" . | int) -}}
{{- end -}}

{{- define "worker-cluster.proxyConfig" -}}
{{- $name := include "worker-cluster.fullname" . -}}
{{- $open := eq .Values.router.epp.failureMode "FailOpen" -}}
admin:
  address:
    socket_address: {address: 127.0.0.1, port_value: 19000}
static_resources:
  listeners:
    - name: entrance
      address:
        socket_address: {address: 0.0.0.0, port_value: 8081}
      filter_chains:
        - filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: entrance
                use_remote_address: true
                normalize_path: true
                merge_slashes: true
                path_with_escaped_slashes_action: REJECT_REQUEST
                common_http_protocol_options: {headers_with_underscores_action: REJECT_REQUEST}
                # The router's id is the one that vLLM's logs and answers tell.
                preserve_external_request_id: true
                stream_idle_timeout: {{ include "worker-cluster.idleSeconds" . }}s
                # One line for each request; nothing of its body, its query or its keys.
                access_log:
                  - name: envoy.access_loggers.stdout
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog
                      log_format:
                        json_format:
                          time: "%START_TIME%"
                          request_id: "%REQ(X-REQUEST-ID)%"
                          method: "%REQ(:METHOD)%"
                          path: "%PATH(NQ)%"
                          status: "%RESPONSE_CODE%"
                          flags: "%RESPONSE_FLAGS%"
                          details: "%RESPONSE_CODE_DETAILS%"
                          dropped: "%RESP(X-LLM-D-REQUEST-DROPPED-REASON)%"
                          worker: "%UPSTREAM_HOST%"
                          milliseconds: "%DURATION%"
                          first_byte_milliseconds: "%RESPONSE_DURATION%"
                          bytes_in: "%BYTES_RECEIVED%"
                          bytes_out: "%BYTES_SENT%"
                http_filters:
                  {{- if include "worker-cluster.routerKeysSecret" . }}
                  - name: envoy.filters.http.lua
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua
                      default_source_code: {filename: /etc/envoy/keys.lua}
                  {{- end }}
                  # What says where a request goes is the picker's to say; a key has done its work here.
                  - name: envoy.filters.http.header_mutation
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation
                      mutations:
                        request_mutations:
                          - remove_on_match: {key_matcher: {prefix: x-gateway-destination-endpoint}}
                          - remove: x-prefiller-host-port
                          - remove: x-encoder-hosts-ports
                          - remove: x-data-parallel-host-port
                          - remove: x-data-parallel-rank
                          - remove: x-kv-cache-source-host-port
                          - remove: authorization
                  - name: envoy.filters.http.ext_proc
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor
                      grpc_service:
                        envoy_grpc: {cluster_name: picker, authority: localhost:9002}
                      message_timeout: {{ include "worker-cluster.pickSeconds" . }}s
                      # The picker reads prompts to find cached beginnings, and answers to count their tokens.
                      processing_mode:
                        request_header_mode: SEND
                        request_body_mode: FULL_DUPLEX_STREAMED
                        request_trailer_mode: SEND
                        response_header_mode: SEND
                        response_body_mode: FULL_DUPLEX_STREAMED
                        response_trailer_mode: SEND
                      # The route depends on the worker that was picked.
                      route_cache_action: CLEAR
                      failure_mode_allow: {{ $open }}
                      status_on_error: {code: ServiceUnavailable}
                  - name: envoy.filters.http.router
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
                      suppress_envoy_headers: true
                route_config:
                  name: entrance
                  virtual_hosts:
                    - name: entrance
                      domains: ["*"]
                      routes:
                        {{- if include "worker-cluster.routerKeysSecret" . }}
                        - name: keyless
                          match:
                            prefix: /
                            dynamic_metadata:
                              - {filter: entrance, path: [{key: key}], value: {string_match: {exact: unknown}}}
                          {{- include "worker-cluster.refusal" (dict "status" 401 "code" "invalid_api_key" "message" "The entrance asks for one of its keys as bearer.") | nindent 26 }}
                        {{- end }}
                        - name: picked
                          match:
                            safe_regex: {regex: "/v1/.+|/health"}
                            headers: [{name: x-gateway-destination-endpoint, present_match: true}]
                          route:
                            cluster: picked_worker
                            timeout: {{ .Values.router.proxy.streamTimeout }}
                            idle_timeout: {{ include "worker-cluster.idleSeconds" . }}s
                        {{- if $open }}
                        # FailOpen: the picker is away, any worker is better than none.
                        - name: unpicked
                          match:
                            safe_regex: {regex: "/v1/.+|/health"}
                          route:
                            cluster: any_worker
                            timeout: {{ .Values.router.proxy.streamTimeout }}
                            idle_timeout: {{ include "worker-cluster.idleSeconds" . }}s
                        {{- else }}
                        - name: unpicked
                          match:
                            safe_regex: {regex: "/v1/.+|/health"}
                          direct_response:
                            status: 503
                            body: {inline_string: "no worker was picked"}
                        {{- end }}
                        # vLLM has more paths, some of which change its state; the router needs none of them.
                        - name: closed
                          match: {prefix: /}
                          {{- include "worker-cluster.refusal" (dict "status" 404 "code" "not_found" "message" "The entrance serves /v1/… alone.") | nindent 26 }}
    # Readiness and metrics; the admin interface itself stays within the pod.
    - name: status
      address:
        socket_address: {address: 0.0.0.0, port_value: 19001}
      filter_chains:
        - filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: status
                http_filters:
                  - name: envoy.filters.http.health_check
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.health_check.v3.HealthCheck
                      pass_through_mode: false
                      headers: [{name: ":path", string_match: {exact: /ready}}]
                  - name: envoy.filters.http.router
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
                route_config:
                  name: status
                  virtual_hosts:
                    - name: status
                      domains: ["*"]
                      routes:
                        - match: {path: /stats/prometheus}
                          route: {cluster: admin}
  clusters:
    # The worker that the picker named. Requests queue in the picker, so nothing here bounds them once more.
    - name: picked_worker
      type: ORIGINAL_DST
      lb_policy: CLUSTER_PROVIDED
      connect_timeout: 5s
      original_dst_lb_config:
        use_http_header: true
        http_header_name: x-gateway-destination-endpoint
      circuit_breakers:
        {{- include "worker-cluster.noThresholds" . | nindent 8 }}
      typed_extension_protocol_options:
        {{- include "worker-cluster.workerProtocol" . | nindent 8 }}
    {{- if $open }}
    - name: any_worker
      type: STRICT_DNS
      connect_timeout: 5s
      dns_lookup_family: V4_PREFERRED
      load_assignment:
        cluster_name: any_worker
        endpoints:
          - lb_endpoints:
              - endpoint:
                  address:
                    socket_address: {address: {{ $name }}-workers, port_value: 8000}
      circuit_breakers:
        {{- include "worker-cluster.noThresholds" . | nindent 8 }}
      typed_extension_protocol_options:
        {{- include "worker-cluster.workerProtocol" . | nindent 8 }}
    {{- end }}
    # Envoy has to know that it is away before a request comes: once it has begun to send it a body, it cannot do without.
    - name: picker
      type: STATIC
      connect_timeout: 2s
      health_checks:
        - tcp_health_check: {}
          interval: 1s
          no_traffic_interval: 1s
          timeout: 1s
          healthy_threshold: 1
          unhealthy_threshold: 1
      common_lb_config: {healthy_panic_threshold: {value: 0}}
      load_assignment:
        cluster_name: picker
        endpoints:
          - lb_endpoints:
              - endpoint:
                  address:
                    socket_address: {address: 127.0.0.1, port_value: 9002}
      circuit_breakers:
        {{- include "worker-cluster.noThresholds" . | nindent 8 }}
      typed_extension_protocol_options:
        envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
          "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
          explicit_http_config:
            http2_protocol_options: {}
    - name: admin
      type: STATIC
      connect_timeout: 1s
      load_assignment:
        cluster_name: admin
        endpoints:
          - lb_endpoints:
              - endpoint:
                  address:
                    socket_address: {address: 127.0.0.1, port_value: 19000}
{{- end -}}

{{/* Refuses in OpenAI's words, without asking the picker; `dict "status" 404 "code" "not_found" "message" "…"`. */}}
{{- define "worker-cluster.refusal" -}}
direct_response:
  status: {{ .status }}
  body:
    inline_string: {{ dict "error" (dict "message" .message "type" "invalid_request_error" "param" nil "code" .code) | toJson | squote }}
response_headers_to_add:
  - header: {key: content-type, value: application/json}
    append_action: OVERWRITE_IF_EXISTS_OR_ADD
typed_per_filter_config:
  envoy.filters.http.ext_proc:
    "@type": type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute
    disabled: true
{{- end -}}

{{- define "worker-cluster.noThresholds" -}}
thresholds:
  - {max_connections: 100000, max_pending_requests: 100000, max_requests: 100000}
{{- end -}}

{{/* vLLM hangs up on a connection that idles for 5 s; one that Envoy leaves first is never in use just then. */}}
{{- define "worker-cluster.workerProtocol" -}}
envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
  "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
  common_http_protocol_options: {idle_timeout: 4s}
  explicit_http_config:
    http_protocol_options: {}
{{- end -}}
