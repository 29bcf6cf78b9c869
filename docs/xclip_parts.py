"""What each part of X-CLIP gives, on films of ours: trains every variant and writes the numbers.

    python docs/xclip_parts.py BASE OUT [--seeds 3] [--steps 300] [--data FOLDER]

BASE is a run of recipes/clip_captioned.yaml: a CLIP of single frames, whose captions name colour,
shape and place and no motion. Every variant begins from it and learns to name motions. The numbers
are appended to OUT/parts.jsonl, so the same command again goes on where it stopped.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from ssvid.cli import parse
from ssvid.data.sampling import eval_clips
from ssvid.engine.features import cpu_seconds
from ssvid.files import append_line
from ssvid.hub import load_encoder
from ssvid.pretrain import pretrain
from ssvid.text.joint_files import load_joint
from ssvid.text.wording import word_classes

