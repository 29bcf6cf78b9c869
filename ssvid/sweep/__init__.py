"""a YAML file of axes -> cells -> jobs -> rows: `python -m ssvid.sweep SWEEP.yaml`."""
