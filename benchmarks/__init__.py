"""What a step costs and how exact it is, beside its peers, in one run: ``python -m benchmarks.<name>``."""
