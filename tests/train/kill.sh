#!/bin/sh
# Kills a training with SIGKILL at random moments and resumes it, TIMES times in a row; its
# weights must be those of a run that was never stopped.   kill.sh QUIPU TIMES
set -eu
quipu=$1 times=$2
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
awk 'BEGIN { srand(7); for (i = 0; i < 6000; i++) printf "%c%s", 97 + int(rand() * 26), i % 7 ? "" : " " }' >"$folder/text.txt"
run() { # replaces the (sub)shell, so that a signal reaches the command itself
    exec "$quipu" train --data "$folder/text.txt" --tokenizer byte --set hidden_size=32 --set intermediate_size=64 \
        --set num_hidden_layers=2 --set num_attention_heads=4 --set num_key_value_heads=2 \
        --out "$folder/$1" --steps "$steps" --batch 2 --length 32 --save-every 3 --validate-every 7 \
        --patience 100000 --ema 0.9 --precision fp16 --tensorboard --keep 2 --quiet --resume
}
steps=$((times * 100))
(run whole)
kills=0 runs=0
while :; do
    runs=$((runs + 1))
    (run killed) & pid=$!
    sleep "$(awk -v seed="$runs" 'BEGIN { srand(seed * 7919); print 0.02 + rand() * 0.25 }')"
    if [ "$kills" -lt "$times" ]; then kill -KILL "$pid" 2>/dev/null || true; fi
    status=0
    wait "$pid" 2>/dev/null || status=$?
    case $status in
    0) break ;;
    137) kills=$((kills + 1)) ;;
    *) echo "run $runs failed after $kills kills"; exit 1 ;;
    esac
done
for file in model.safetensors optimizer.safetensors train.json ema/model.safetensors; do
    cmp "$folder/whole/latest/$file" "$folder/killed/latest/$file" || exit 1
done
[ "$(readlink "$folder/whole/best")" = "$(readlink "$folder/killed/best")" ]
losses() { sed 's/"tokens".*//' "$1"; }
losses "$folder/whole/log.jsonl" >"$folder/a"
losses "$folder/killed/log.jsonl" >"$folder/b"
cmp "$folder/a" "$folder/b"
[ "$kills" -eq "$times" ] || { echo "the training ended after $kills kills: too few steps"; exit 1; }
echo "$kills kills, $runs runs, $steps steps: the same bits"
