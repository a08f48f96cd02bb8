#!/bin/sh
# The whole way on the embedded model, every command shown before it runs. $1: the folder that holds ggufrun.
set -eu

bin=$1
out=build/demo
model=$out/tang-poet-Q4_K_M.gguf

run() {
    printf '\n$ ggufrun %s\n' "$*"
    "$bin/ggufrun" "$@"
}

rm -rf "$out"
mkdir -p "$out"

echo 'A checkpoint becomes two GGUF files in one read:'
run convert models/tang-poet -t f16 -t q4_k_m -o "$out"

printf '\nA GGUF becomes two smaller ones:\n'
run quantize "$out/tang-poet-F16.gguf" q8_0 q5_k_m -o "$out"

printf '\nTwo questions; the second leans on the first:\n'
# shellcheck disable=SC2016
printf '\n$ printf "背一下静夜思\\n作者是谁？\\n" | ggufrun chat %s -i --temp 0\n' "$model"
printf '背一下静夜思\n作者是谁？\n' | "$bin/ggufrun" chat "$model" -i --temp 0

printf '\nTalk to it yourself: %s/ggufrun chat %s\n' "$bin" "$model"
