"""A cluster of processes: the rendered manifests, each pod in a network of its own, probed as the kubelet does."""
