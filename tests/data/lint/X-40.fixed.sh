#!/bin/bash
set -euo pipefail
export REGION=us-central1
gcloud container clusters get-credentials "$CLUSTER_NAME" --location="$REGION"
kubectl apply -f vllm-deploy.yaml -n "$NAMESPACE"
kubectl get all -n "$NAMESPACE"
gcloud builds submit .
gcloud container clusters delete "$CLUSTER_NAME" --region="$REGION"
