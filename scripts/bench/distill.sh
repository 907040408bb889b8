#!/usr/bin/env bash
# How fast a step of distillation is, forward and back, the teacher apart: next to the limit of simulate.sh, plus the same products
# again at bfloat16's rate (float32's where there is none), attention recomputed. Options: engine.bash.
set -eu
. "$(dirname "$0")/engine.bash"
make_profile
"$bench" distill "$runs" builtin "$model" "$profile" "a=$adapter" >"$folder/ours"
: >"$folder/theirs"
picture distill '2 * v["products"] / v["integer"] + 1.5 * v["attention"] / v["best"] + (v["packed"] + 2 * v["unshared"]) / 1024 / v["copy"] + (v["products"] + v["attention"]) / (v["bfloat16"] > v["best"] ? v["bfloat16"] : v["best"])'
