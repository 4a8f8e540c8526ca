#!/bin/bash
set -euo pipefail
kubectl apply -f - <<EOF
apiVersion: batch/v1
kind: Job
metadata:
  name: producer-job
  namespace: "${NAMESPACE}"
spec:
  backoffLimit: 0
  ttlSecondsAfterFinished: 86400
  template:
    spec:
      restartPolicy: Never
      containers:
        - name: download
          image: ubuntu:22.04
EOF
kubectl logs jobs/producer-job -c download --namespace="$NAMESPACE"
kubectl logs jobs/producer-job -c gcloud-upload --namespace="$NAMESPACE"
