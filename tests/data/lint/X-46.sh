#!/bin/bash
set -euo pipefail
gcloud container node-pools create gpu-pool --cluster="$CLUSTER_NAME" --region="$REGION" \
  --machine-type=a2-ultragpu-1g --accelerator=type=nvidia-a100-80gb,count=1 --spot
kubectl apply -f - <<'EOF'
apiVersion: apps/v1
kind: Deployment
metadata:
  name: llama
  labels:
    app: vllm-inference-server
spec:
  replicas: 1
  selector:
    matchLabels:
      app: vllm-inference-server
  template:
    metadata:
      labels:
        app: vllm-inference-server
    spec:
      serviceAccountName: reader
      enableServiceLinks: false
      terminationGracePeriodSeconds: 135
      nodeSelector:
        cloud.google.com/gke-accelerator: nvidia-a100-80gb
      containers:
        - name: inference-server
          image: vllm/vllm-openai:v0.26.0
          imagePullPolicy: IfNotPresent
          command: [vllm, serve]
          args:
            - openai/gpt-oss-120b
            - --max-model-len=8192
            - --gpu-memory-utilization=0.9
            - --port=8000
            - --tensor-parallel-size=8
          env:
            - name: HF_TOKEN_PATH
              value: /var/run/secrets/hub/token
            - name: HF_HOME
              value: /cache
          ports:
            - name: http
              containerPort: 8000
          startupProbe:
            httpGet: {path: /health, port: http}
            periodSeconds: 10
            failureThreshold: 120
          readinessProbe:
            httpGet: {path: /health, port: http}
            periodSeconds: 5
            failureThreshold: 3
          lifecycle:
            preStop:
              sleep: {seconds: 15}
          resources:
            requests: {cpu: "3", memory: 16Gi, nvidia.com/gpu: 8}
            limits: {memory: 16Gi, nvidia.com/gpu: 8}  # finds: gpus-exceed-machine
          volumeMounts:
            - {name: dshm, mountPath: /dev/shm}
            - {name: cache, mountPath: /cache}
            - {name: hub-token, mountPath: /var/run/secrets/hub, readOnly: true}
      volumes:
        - name: dshm
          emptyDir: {medium: Memory, sizeLimit: 2Gi}
        - name: cache
          emptyDir: {sizeLimit: 30Gi}
        - name: hub-token
          secret: {secretName: huggingface, optional: true}
---
apiVersion: v1
kind: Service
metadata:
  name: llama
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
---
apiVersion: v1
kind: ServiceAccount
metadata:
  name: reader
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: llama
spec:
  maxUnavailable: 1
  selector:
    matchLabels:
      app: vllm-inference-server
EOF
