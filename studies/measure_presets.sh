#!/usr/bin/env bash
# Every growth preset from the same small source on real English, each against its own shape from noise: the table of
# docs/growth_measured.md. Tiny models, a minute a run on one CPU core, a machine-hour in all.
#
#     studies/measure_presets.sh            # every preset, the best five and the baselines on three seeds, then the table
#     BEST=99 studies/measure_presets.sh    # all presets on three seeds
#     TUNE=1 studies/measure_presets.sh     # the learning-rate grid on seed 100, one shape; put the choice below
#
# All targets get the same tokens, schedule and order of the data. A preset gets a shape that it was made for, and each
# shape a baseline from noise. A run that is done is not repeated. Any of the names below can be set in the environment.
set -euo pipefail
: "${OUT:=outputs/presets}" "${SEEDS:=1 2}" "${BEST:=5}" "${OVERRIDES:=}" "${TUNE:=0}"
: "${SHAPES:=layers_1.5x width_2x width_1.5x experts layers_2x width_and_layers_1.5x}"
: "${SOURCE_TOKENS:=61_440}" "${BRANCH_TOKENS:=30_720}" "${TARGET_TOKENS:=122_880}"

: "${LR:=4e-3}" "${GRID:=2e-3 4e-3 8e-3 1.6e-2}"

main() {
    if [ "$TUNE" = 1 ]; then tune; else measure; fi
}

# SHAPE: its model. The source has 4 layers of width 64; the others are wider, deeper, both, or have experts.
model() {
    local small="model=tiny model.embed=64 model.head_dim=16 model.ffn=176"
    local wider="model=tiny model.embed=96 model.head_dim=16 model.ffn=264 model.heads=6"
    case $1 in
        source) echo "$small" ;;
        width_2x) echo "model=tiny model.head_dim=16 model.heads=8 model.kv_heads=4" ;;
        width_1.5x) echo "$wider model.kv_heads=3" ;;
        layers_1.5x) echo "$small model.layers=6" ;;
        layers_2x) echo "$small model.layers=8" ;;
        width_and_layers_1.5x) echo "$wider model.layers=6" ;; # the key-value heads stay, as AKI-Pro has it
        experts) echo "${small/tiny/tiny_mixtral}" ;;
    esac
}

# SHAPE: the presets that are measured on it
presets() {
    case $1 in
        source) echo identity ;;
        width_2x) echo hyperclone hyperclone_noisy hyperclone_diagonal hyperclone_diagonal_noisy join ;;
        width_1.5x) echo net2net bert2bert_fpi bert2bert_aki lemon isometric zero_pad sparkling ;;
        layers_1.5x) echo stackbert mslt interpose solar llama_pro identity_stack ;;
        layers_2x) echo g_stack join_above ;;
        width_and_layers_1.5x) echo aki_pro bert2bert_fpi bert2bert_aki ;;
        experts) echo upcycle drop_upcycle expert_noise branch_train_mix ;;
    esac
}

# PRESET: what it grows from. Joined models have no common ancestor, branches have one.
grown_from() {
    case $1 in
        join | join_above) echo "growth.sources=[$OUT/sources/first,$OUT/sources/second]" ;;
        branch_train_mix) echo "growth.sources=[$OUT/sources/branch,$OUT/sources/other_branch]" ;;
        *) echo "growth.source=$OUT/sources/first" ;;
    esac
}

# RUN_DIRECTORY LEARNING_RATE OVERRIDE...
train() {
    local run=$1 lr=$2
    shift 2
    # shellcheck disable=SC2086 # OVERRIDES is a list of words
    set -- experiment=growth_presets "$@" $OVERRIDES optimizer.lr="$lr" run_dir="$run"
    [ -d "$run/model" ] && return
    printf '\n$ python train.py %s\n' "$*"
    python train.py "$@" </dev/null
}

# SHAPE PRESET SEED [RUN_DIRECTORY LEARNING_RATE]
arm() {
    local shape=$1 preset=$2 seed=$3 run=${4:-$OUT/$1/$2-$3} lr=${5:-$LR}
    sources "$preset"
    # shellcheck disable=SC2046 # lists of words
    if [ "$preset" = noise ]; then
        train "$run" "$lr" $(model "$shape") seed="$seed" trainer.max_tokens="$TARGET_TOKENS"
    else
        train "$run" "$lr" $(model "$shape") growth="$preset" $(grown_from "$preset") growth.seed="$seed" seed="$seed" \
            trainer.max_tokens="$TARGET_TOKENS"
    fi
}

# PRESET: trains what it grows from. Sources see the data in other orders than the targets.
sources() {
    local small
    small=$(model source)
    # shellcheck disable=SC2086 # a list of words
    case $1 in
        noise) ;;
        join | join_above)
            sources first
            train "$OUT/sources/second" "$LR" $small seed=1001 trainer.max_tokens="$SOURCE_TOKENS"
            ;;
        branch_train_mix)
            sources first
            train "$OUT/sources/branch" "$LR" $small growth=identity growth.source="$OUT/sources/first" \
                seed=1002 trainer.max_tokens="$BRANCH_TOKENS"
            train "$OUT/sources/other_branch" "$LR" $small growth=identity growth.source="$OUT/sources/first" \
                seed=1003 trainer.max_tokens="$BRANCH_TOKENS"
            ;;
        *) train "$OUT/sources/first" "$LR" $small seed=1000 trainer.max_tokens="$SOURCE_TOKENS" ;;
    esac
}

measure() {
    local shape preset seed best
    for shape in $SHAPES source; do
        [ "$shape" = source ] || arm "$shape" noise 0
        for preset in $(presets "$shape"); do arm "$shape" "$preset" 0; done
    done
    for seed in $SEEDS; do
        for shape in $SHAPES; do arm "$shape" noise "$seed"; done
        arm source identity "$seed"
    done
    best=$(python studies/report_presets.py runs="$OUT" best="$BEST")
    for seed in $SEEDS; do
        while read -r shape preset; do arm "$shape" "$preset" "$seed"; done <<<"$best"
    done
    python studies/report_presets.py runs="$OUT" output="$OUT/report"
}

tune() {
    local lr preset run
    for preset in noise isometric; do
        for lr in $GRID; do arm width_1.5x "$preset" 100 "$OUT/tune/$preset/$lr" "$lr"; done
    done
    printf '\nLast validation loss on seed 100:\n'
    for run in "$OUT"/tune/*/*; do
        echo "$(grep -o '"val/loss": [0-9.]*' "$run/metrics.jsonl" | tail -n 1 | cut -d ' ' -f 2) ${run#"$OUT/tune/"}"
    done
}

main
