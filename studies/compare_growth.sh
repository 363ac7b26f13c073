#!/usr/bin/env bash
# A 40M model grown from a 10M one against the 40M from noise and the 10M trained further, three seeds, on one GPU.
#
#     studies/compare_growth.sh            # all seeds, then the report in outputs/compare/report
#     TUNE=1 studies/compare_growth.sh     # the learning-rate grid on seed 100; put its choices below
#
# Every run is annealed to its own budget. The source trained further gets the FLOPs of a target, not its tokens. Sources
# and targets see the data in different orders; the arms of one seed see it in the same one. A run that is done is not
# repeated, one that was interrupted goes on. Any of the names below can be set in the environment, e.g. for a trial on CPU:
#
#     FORCE_CPU=1 SOURCE_MODEL=tiny TARGET_MODEL=tiny_2x DATA=data/english OUT=outputs/trial SEEDS="0 1" \
#     SOURCE_TOKENS=20480 TARGET_TOKENS=10240 CONTINUED_TOKENS=20480 OVERRIDES="data.sequence_length=64
#     trainer.tokens_per_step=1024 trainer.micro_batch=16 trainer.val_tokens=2048 trainer.val_every_tokens=2048
#     trainer.precision=fp32 trainer.compile=none" studies/compare_growth.sh
set -euo pipefail
: "${SOURCE_MODEL:=llama_10m}" "${TARGET_MODEL:=llama_40m}" "${DATA:=data/debian}" "${OUT:=outputs/compare}"
: "${SEEDS:=0 1 2}" "${SOURCE_TOKENS:=50_000_000}" "${TARGET_TOKENS:=50_000_000}" "${CONTINUED_TOKENS:=145_000_000}"
: "${OVERRIDES:=}" "${TUNE:=0}" "${FORCE_CPU:=0}"

# Peak learning rates. Not tuned yet: the middles of the grid, until TUNE=1 has run on a GPU.
: "${LR_SOURCE:=2e-3}" "${LR_NOISE:=2e-3}" "${LR_HYPERCLONE:=1e-3}" "${LR_HYPERCLONE_NOISY:=1e-3}" "${LR_CONTINUED:=1e-3}"
: "${GRID_NOISE:=1e-3 2e-3 4e-3}" "${GRID_TRAINED:=5e-4 1e-3 2e-3}"

main() {
    need_gpu
    need_data
    if [ "$TUNE" = 1 ]; then tune; else compare; fi
}

need_gpu() {
    [ "$FORCE_CPU" = 1 ] || python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || {
        echo "No GPU: this would train, for each seed of $SEEDS, $SOURCE_MODEL and $TARGET_MODEL from noise, two grown" \
            "$TARGET_MODEL and $SOURCE_MODEL trained further, about 10 minutes a seed on an H200. FORCE_CPU=1 runs it."
        exit 0
    }
}

need_data() {
    [ -f "$DATA/manifest.json" ] || {
        echo "$DATA: expected token shards, found none. Make them: studies/fetch_debian_docs.py says how." >&2
        exit 77
    }
}

# RUN_DIRECTORY LEARNING_RATE OVERRIDE...
train() {
    local run=$1 lr=$2
    shift 2
    # shellcheck disable=SC2086 # OVERRIDES is a list of words
    set -- experiment=compare_10m_40m data.path="$DATA" "$@" $OVERRIDES optimizer.lr="$lr" run_dir="$run"
    printf '\n$ python train.py %s\n' "$*"
    python train.py "$@"
}

# ARM RUN_DIRECTORY LEARNING_RATE SEED [SOURCE_RUN]
arm() {
    local arm=$1 run=$2 lr=$3 seed=$4 source=${5:-}
    case $arm in
        source) train "$run" "$lr" model="$SOURCE_MODEL" trainer.max_tokens="$SOURCE_TOKENS" seed=$((seed + 1000)) ;;
        noise) train "$run" "$lr" model="$TARGET_MODEL" trainer.max_tokens="$TARGET_TOKENS" seed="$seed" ;;
        continued)
            train "$run" "$lr" model="$SOURCE_MODEL" growth=identity growth.source="$source" seed="$seed" \
                trainer.max_tokens="$CONTINUED_TOKENS"
            ;;
        *)
            train "$run" "$lr" model="$TARGET_MODEL" growth="$arm" growth.source="$source" seed="$seed" \
                growth.seed="$seed" trainer.max_tokens="$TARGET_TOKENS"
            ;;
    esac
}

compare() {
    local seed
    for seed in $SEEDS; do
        arm source "$OUT/source-$seed" "$LR_SOURCE" "$seed"
        arm noise "$OUT/noise-$seed" "$LR_NOISE" "$seed"
        arm hyperclone "$OUT/hyperclone-$seed" "$LR_HYPERCLONE" "$seed" "$OUT/source-$seed"
        arm hyperclone_noisy "$OUT/hyperclone_noisy-$seed" "$LR_HYPERCLONE_NOISY" "$seed" "$OUT/source-$seed"
        arm continued "$OUT/continued-$seed" "$LR_CONTINUED" "$seed" "$OUT/source-$seed"
    done
    printf '\n$ python scripts/report.py ...\n'
    python scripts/report.py runs="[$(runs hyperclone),$(runs hyperclone_noisy)]" baseline="[$(runs noise)]" \
        continued="[$(runs continued)]" output="$OUT/report"
}

# ARM: its runs of all seeds, with commas
runs() {
    local seed list=
    for seed in $SEEDS; do list="$list,$OUT/$1-$seed"; done
    echo "${list#,}"
}

tune() {
    local source
    tune_arm source "$GRID_NOISE"
    tune_arm noise "$GRID_NOISE"
    source=$(losses source | head -n 1 | cut -d ' ' -f 2)
    for trained in hyperclone hyperclone_noisy continued; do tune_arm "$trained" "$GRID_TRAINED" "$source"; done
    printf '\nLast validation loss of every arm and rate on seed 100, best first:\n'
    for each in source noise hyperclone hyperclone_noisy continued; do losses "$each"; done
}

# ARM GRID [SOURCE_RUN]
tune_arm() {
    local lr
    for lr in $2; do
        arm "$1" "$OUT/tune/$1-$lr" "$lr" 100 "${3:-}" || [ $? = 76 ] # the exit code of a run that diverged
    done
}

# ARM: "loss run" of each of its tuning runs, best first; runs that diverged exported no model
losses() {
    local run loss
    for run in "$OUT/tune/$1"-[0-9]*; do
        loss=$(grep -o '"val/loss": [0-9.]*' "$run/metrics.jsonl" | tail -n 1 | cut -d ' ' -f 2)
        [ -d "$run/model" ] || loss=inf
        echo "$loss $run"
    done | sort -g
}

main
