#!/usr/bin/env bash
# How fast the same UNet is simulated, W8A16 with an int8 adapter: next to two products of 8-bit codes for each product of the float
# network, attention in float32, and reading the weights and writing and reading every result once, in the form they are stored in.
# Options: engine.bash.
set -eu
. "$(dirname "$0")/engine.bash"
make_profile
"$bench" simulate "$runs" builtin "$model" "$profile" "a=$adapter" >"$folder/ours"
"$bench" simulate 1 torch "$model" "$profile" "a=$adapter" >"$folder/theirs"
picture simulate '2 * v["products"] / v["integer"] + v["attention"] / v["best"] + (v["packed"] + 2 * v["unshared"]) / 1024 / v["copy"]'
