"""Real vLLM, on the CPU, behind real Envoy: what `make test-vllm` runs against."""
