"""What runs Darkroom on Kubernetes: kustomize's files, and what is written into them from elsewhere."""
