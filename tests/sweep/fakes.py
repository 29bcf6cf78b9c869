"""A SLURM of shell scripts, and the file of a sweep whose cells are never trained."""

from pathlib import Path
from typing import Any

import yaml

BASE = {"data": {"name": "synthetic"}, "objective": "mae", "encoder": "vit_tiny", "steps": 10}
SBATCH = """#!/bin/sh
if [ "$1" = --test-only ]; then
    cat > $SLURM_FAKE/script
    grep -q 'partition=nowhere' $SLURM_FAKE/script || exit 0
    echo "allocation failure: Invalid partition name specified" >&2
    exit 1
fi
[ -e $SLURM_FAKE/full ] && {
  echo "sbatch: error: Batch job submission failed: Job violates limits" >&2
  exit 1
}
cp "$1" $SLURM_FAKE/submitted_$(ls $SLURM_FAKE | wc -l)
echo "Submitted batch job $(ls $SLURM_FAKE | wc -l)"
"""
TOOLS = {
    "sbatch": SBATCH,
    "srun": "#!/bin/sh\nexit 1\n",
    "squeue": "#!/bin/sh\ncat $SLURM_FAKE/queue 2>/dev/null; exit 0\n",
    "scontrol": "#!/bin/sh\necho 'MaxArraySize            = 1001'\n",
    "scancel": '#!/bin/sh\necho "$@" >> $SLURM_FAKE/cancelled\n',
}


def sweep(folder: Path, **parts: Any) -> str:
    file = folder / "try.yaml"
    file.write_text(yaml.safe_dump({"base": BASE, **parts}, sort_keys=False))
    return str(file)
