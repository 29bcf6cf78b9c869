"""The old name of `python -m benchmarks.profiling`, for one version."""

import sys

if __name__ == "__main__":
    text = (
        "benchmarks.speed is now benchmarks.profiling: python -m benchmarks.profiling [CASE ...]."
    )
    print(f"error: {text}", file=sys.stderr)
    sys.exit(2)
