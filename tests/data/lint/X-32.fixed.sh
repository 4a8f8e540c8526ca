#!/bin/bash
set -euo pipefail
kubectl apply -n "$NAMESPACE" -f - <<'EOF'
apiVersion: v1
kind: Service
metadata:
  name: vllm-client-service
  annotations:
    networking.gke.io/load-balancer-type: Internal
spec:
  type: LoadBalancer
  selector:
    app: vllm-client
  ports:
    - port: 8080
      targetPort: 7860
EOF
kubectl get service/vllm-client-service -n "$NAMESPACE" \
  -o jsonpath='{.status.loadBalancer.ingress[0].ip}'
