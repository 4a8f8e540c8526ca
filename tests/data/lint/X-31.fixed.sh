#!/bin/bash
set -euo pipefail
kubectl apply -n "$NAMESPACE" -f - <<'EOF'
apiVersion: v1
kind: Service
metadata:
  name: vllm-inference-server
  labels:
    app: vllm-inference-server
spec:
  type: ClusterIP
  selector:
    app: vllm-inference-server
  ports:
    - name: http
      port: 8000
      targetPort: http
EOF
kubectl get service/vllm-inference-server -o jsonpath='{.spec.clusterIP}' -n "$NAMESPACE"
