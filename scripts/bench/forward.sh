#!/usr/bin/env bash
# How fast an SD1.5 UNet runs in float32 at 64 x 64 latents, batch 1: next to the machine's rate of matrix products, measured in
# between, next to libtorch's operators, and with how much memory. Options: engine.bash.
set -eu
. "$(dirname "$0")/engine.bash"
"$bench" forward "$runs" builtin "$model" >"$folder/ours"
"$bench" forward 1 torch "$model" >"$folder/theirs"
picture forward '(v["products"] + v["attention"]) / v["best"]'
