#!/bin/bash
# What starting costs: libtorch is loaded by commands that train, execute an exported file or are asked for it, and by no others.
. "$(dirname "$0")/check.bash"

expect 0 "" "$QUAD" init --arch tiny -o "$work/model"
loads no "$QUAD" --help
loads no "$QUAD" init --arch tiny -o "$work/again"
loads no "$QUAD" inspect "$work/model"
loads no "$QUAD" eval --help
loads no "$QUAD" eval --base "$work/nothing" --inputs "$work/nothing"
loads yes "$QUAD" --version

# Models are executed, simulated and calibrated without it.
scenes=$(dirname "$QUAD")/scenes
if [ -x "$scenes" ]; then
	small_config "$work/config.json"
	expect 0 "" "$QUAD" init --config "$work/config.json" --prediction v_prediction --seed 1 -o "$work/m"
	expect 0 "" "$QUAD" init --config "$work/config.json" --lora 2 --seed 2 -o "$work/a.safetensors"
	expect 0 "" "$scenes" --task all --count 2 --seed 1 --schedule "$work/m" -o "$work/calib.safetensors"
	expect 0 "" "$scenes" --task sketch --count 1 --seed 2 -o "$work/data.safetensors"
	run=("$QUAD" run --base "$work/m" --adapter "a=$work/a.safetensors" --inputs "$work/data.safetensors" --steps 1 --force)
	loads no "$QUAD" qss --base "$work/m" --adapter "a=$work/a.safetensors" --calib "$work/calib.safetensors" -o "$work/profile.json"
	[ -s "$work/profile.json" ] || fault "qss writes no profile"
	loads no "${run[@]}" -o "$work/float.safetensors"
	loads no "${run[@]}" --profile "$work/profile.json" -o "$work/simulated.safetensors"
	loads yes "${run[@]}" --engine torch -o "$work/torch.safetensors"
	for samples in float simulated torch; do
		[ -s "$work/$samples.safetensors" ] || fault "run writes no $samples samples"
	done
else
	skip "the program that draws data is not built"
fi
if golden tiny15; then
	loads no "$QUAD" eval --base "$QUAD_GOLDEN/tiny15" --inputs "$QUAD_GOLDEN/expected/tiny15.safetensors" --check 2e-5
	loads yes "$QUAD" eval --base "$QUAD_GOLDEN/tiny15" --inputs "$QUAD_GOLDEN/expected/tiny15.safetensors" --check 2e-5 --engine torch
fi

# The program finds its library beside itself or in ../lib/quad, and says so when it is in neither.
library=$(dirname "$(realpath "$QUAD")")/libquad-torch.so
[ -f "$library" ] || library=$(dirname "$(realpath "$QUAD")")/../lib/quad/libquad-torch.so
mkdir -p "$work/p/bin" "$work/p/lib/quad"
cp "$QUAD" "$work/p/bin/quad"
loads no "$work/p/bin/quad" --version
expect 3 "cannot load the library that executes graphs: libquad-torch.so" \
	"$work/p/bin/quad" train --device cpu --base "$work/model" --data "$work/model" -o "$work/out"
ln "$library" "$work/p/lib/quad/libquad-torch.so" 2>/dev/null || cp "$library" "$work/p/lib/quad/"
loads yes "$work/p/bin/quad" --version

# Where memory for threads is short the program ends all the same.
for limit in 100000 150000 180000; do
	(
		ulimit -v $limit
		expect 0 "quad " timeout 20 "$QUAD" --version
		expect 0 "Usage: quad COMMAND" timeout 20 "$QUAD" --help
		finish
	) || fault "within $limit kB"
done

# Threads sleep while they wait, unless the caller wants them awake.
waits()
{
	local want=$1 found
	shift
	found=$(env -u OMP_WAIT_POLICY OMP_DISPLAY_ENV=verbose "$@" "$QUAD" --help 2>&1 >/dev/null |
		sed -n "s/.*GOMP_SPINCOUNT = '\\(.*\\)'/\\1/p" | tail -n 1)
	[ "$found" = "$want" ] || fault "spins '$found' times, needs $want: $*"
}
waits 0
waits 17 GOMP_SPINCOUNT=17
waits 0 OMP_WAIT_POLICY=passive
waits 30000000000 OMP_WAIT_POLICY=active

finish
