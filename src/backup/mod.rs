//! Chunked, compressed, incremental backup. Knows nothing of Kubernetes.
