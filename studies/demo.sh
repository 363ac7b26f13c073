#!/usr/bin/env bash
# The main job in small, on real English: train a source, grow it, and see how much sooner the bigger model learns.
# `make demo` runs it; DEMO_SCALE=0.03 shortens every run by that factor.
#
# Peak learning rates, the best of a grid for each arm on seed 100; validation loss at the end of the run in brackets:
#   source     2e-3 (6.146)  4e-3 (6.029)
#   noise      2e-3 (5.587)  4e-3 (5.588)
#   grown      1e-3 (5.546)  2e-3 (5.440)  4e-3 (5.428)
#   continued  2e-3 (5.528)  4e-3 (5.436)
set -euo pipefail
scale=${DEMO_SCALE:-1}
out=outputs/demo
[ "$scale" = 1 ] || out=outputs/demo-x$scale

tokens() { awk -v tokens="$1" -v scale="$scale" 'BEGIN { printf "%d", tokens * scale }'; }

train() {
    printf '\n$ python train.py experiment=demo %s\n' "$*"
    python train.py experiment=demo "$@"
}

source_tokens=trainer.max_tokens=$(tokens 250000)
target_tokens=trainer.max_tokens=$(tokens 500000)

echo "1/4  A small source, trained from noise."
train model=tiny run_dir="$out/source" "$source_tokens" optimizer.lr=4e-3
echo "2/4  The bigger architecture from noise: the first baseline."
train model=tiny_2x run_dir="$out/noise" "$target_tokens" optimizer.lr=2e-3
echo "3/4  The bigger architecture grown from the source."
train model=tiny_2x growth=hyperclone_noisy growth.source="$out/source" run_dir="$out/grown" "$target_tokens" \
    optimizer.lr=4e-3
echo "4/4  The source itself, trained further for as many tokens: the second baseline."
train model=tiny growth=identity growth.source="$out/source" run_dir="$out/continued" "$target_tokens" \
    optimizer.lr=4e-3

printf '\n$ python scripts/report.py ...\n'
python scripts/report.py runs="[$out/grown]" baseline="$out/noise" continued="$out/continued" output="$out/report"
