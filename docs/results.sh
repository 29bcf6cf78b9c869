#!/bin/sh
# The commands behind the numbers of docs/results.md: `sh docs/results.sh SECTION`, run where the package is installed.
# demo and tasks are measured there. tours, few_tours and mini6 have not been run since the statistics of before were replaced.
# The tables of results.md are rows of the board.md that each section ends with. MINI6 is the folder of ucf101-mini6.
# CPU-minutes are for one core. Results that exist are not made again.
set -eu
one="--threads 1 --workers 1"

demo() { # three pretraining seeds, about 8 CPU-minutes each
    for seed in 0 1 2; do
        python -m benchmarks.demo --seed "$seed" --out "runs/d$seed"
    done
    python -m benchmarks.report runs/d0/probe runs/d1/probe runs/d2/probe --out runs/report/demo
}

tasks() { # more questions to seed 0 of the demo; about 10
    python -m benchmarks.run --encoder runs/d0 --suite mini --data synthetic --out runs/report/tours $one
    python -m benchmarks.run --encoder runs/d0 --suite films --out runs/report/films $one
    for set in tours films; do
        mkdir -p "docs/report/$set"
        cp "runs/report/$set/board.md" "runs/report/$set/board.csv" "runs/report/$set/"*.html "docs/report/$set/"
    done
}

tours() { # does flow teach rgb? three seeds, 8 to 15 each with the probes
    python -m ssvid.data.flow --data synthetic --data.train 2048 --method dis
    for seed in 0 1 2; do
        for stage in rgb flow rgb_1 rgb_more; do
            python -m ssvid.stages recipes/compare_tours.yaml --only "$stage" --out "runs/tours$seed" -- --seed "$seed"
        done
    done
    for stage in rgb_1 rgb_more; do # the three seeds of a side lie in one folder, so that compare takes their mean
        python -m benchmarks.run --encoder "runs/tours0/$stage" --encoder "runs/tours1/$stage" --encoder "runs/tours2/$stage" \
            --suite quick --data synthetic --data.train 2048 --clip.frames 6 --out "runs/quick/$stage" $one
    done
    python -m benchmarks.compare runs/quick/rgb_1 runs/quick/rgb_more
}

few_tours() { # mae and dpc after 7200 clips of the tours; about 10
    blocks="--encoder.frames 2 --encoder.stride 1 --encoder.size 32 --objective.blocks 3 --objective.predicted 1 --objective.augment none"
    python -m ssvid.pretrain --config recipes/demo.yaml --data synthetic --steps 300 --out runs/mae_syn
    python -m ssvid.pretrain --config recipes/dpc_mini6.yaml --data synthetic $blocks --steps 300 --batch_size 24 --out runs/dpc_syn
    python -m benchmarks.linear_probe --encoder runs/mae_syn --data synthetic --out runs/mae_syn/probe $one
    python -m benchmarks.linear_probe --encoder runs/dpc_syn --data synthetic --clip.frames 6 --out runs/dpc_syn/probe $one
    python -m benchmarks.report runs/mae_syn/probe runs/dpc_syn/probe --out runs/report/few_tours
}

mini6() { # mae on real clips; about 18
    python -m ssvid.data.prepare --source "$MINI6/labels.csv" --out runs/mini6 --short_side 80 --gop 8
    python -m ssvid.pretrain --config recipes/mae_mini6.yaml --data.root runs/mini6 --out runs/mae_mini6
    python -m benchmarks.linear_probe --encoder runs/mae_mini6 --data csv --data.root runs/mini6 --out runs/mae_mini6/probe $one
}

"$1"
