#!/bin/sh
# The whole way on the embedded model, every command shown before it runs. $1: the folder that holds ggufrun.
set -eu

bin=$1
out=build/demo

run() {
    printf '\n$ ggufrun %s\n' "$*"
    "$bin/ggufrun" "$@"
}

rm -rf "$out"
mkdir -p "$out"

run convert models/tang-poet -t f16 -t q4_k_m -o "$out"
run quantize "$out/tang-poet-F16.gguf" q8_0 q5_k_m -o "$out"

printf '\n$ ggufrun chat %s --plain        # two questions, one a line\n' "$out/tang-poet-Q4_K_M.gguf"
printf '背一下静夜思\n作者是谁？\n' | "$bin/ggufrun" chat "$out/tang-poet-Q4_K_M.gguf" --plain

printf '\nTalk to it yourself: %s/ggufrun chat %s\n' "$bin" "$out/tang-poet-Q4_K_M.gguf"
