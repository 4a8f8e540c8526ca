#!/bin/bash
set -euo pipefail
export REGION=us-central  # finds: region-without-number
gcloud container clusters get-credentials $CLUSTER_NAME $REGION  # finds: gcloud-argument
kubectl apply -f vllm-deploy.yaml -n $NAMESPACE
kubectl get all  # finds: namespace-sometimes
gcloud builds submit.  # finds: gcloud-argument
gcloud container clusters delete $CLUSTER_NAME — region us-central1  # finds: dash-is-no-hyphen gcloud-argument
