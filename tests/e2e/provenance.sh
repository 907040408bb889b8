#!/bin/bash
# What outputs say of what they were made from: the same inputs and seed give the same bytes, wherever the inputs lie and the output
# goes; other inputs or options are told.
. "$(dirname "$0")/check.bash"
export OMP_WAIT_POLICY=passive
needs_scenes
small_config "$work/config.json"
cd "$work" || exit 1
mkdir -p o "else where/o"
expect 0 "" "$QUAD" init --config config.json --prediction v_prediction --seed 1 -o m
expect 0 "" "$scenes" --task all --count 4 --seed 1 --schedule m -o data.safetensors
expect 0 "" "$QUAD" train --base m --lora 2 --slots all --data data.safetensors --steps 2 --batch 2 --lr 0.05 --seed 1 -o a.safetensors
cp -r m data.safetensors "else where"
cp a.safetensors "else where/another name.safetensors"

# made DIR MODEL ADAPTER OPTIONS...: calibration data, a profile, an export, samples and a trace
made()
{
	local o=$1 m=$2 a=$3 data=$4
	shift 4
	expect 0 "" "$QUAD" calib --model "$m" --data "$data" --trajectory euler:3 --count 4 --adapter a="$a" "$@" -o "$o/calib.safetensors"
	expect 0 "" "$QUAD" qss --base "$m" --adapter a="$a" --calib "$o/calib.safetensors" -o "$o/profile.json"
	expect 0 "" "$QUAD" export --base "$m" --profile "$o/profile.json" --adapter a="$a" --batch 4 --tokens 8 -o "$o/x y"
	expect 0 "" "$QUAD" run --base "$m" --adapter "$a" --profile "$o/profile.json" --inputs "$data" --steps 2 --batch 4 "$@" \
		--trace "$o/trace.safetensors" -o "$o/samples.safetensors"
	expect 0 "" "$QUAD" run --base "$o/x y" --adapter a --inputs "$data" --steps 2 "$@" -o "$o/exported.safetensors"
}
made o m a.safetensors data.safetensors
made "else where/o" "else where/m" "./else where/another name.safetensors" "$work/else where/data.safetensors" --seed 0
diff -r o "else where/o" >&2 || fault "the same inputs give other bytes elsewhere"
grep -rqe "$work" -e "else where" -e "another name" "else where/o" && fault "an output names a path"

for file in calib samples trace exported; do
	expect 0 'quad.provenance: {"program":"quad ' "$QUAD" inspect o/$file.safetensors
done
expect 0 '"trajectory\":\"euler:3\"' "$QUAD" inspect o/calib.safetensors --json
for role in schedule base adapter data; do
	grep -qF "{\\\"role\\\":\\\"$role\\\",\\\"hash\\\":\\\"xxh3-128:" "$work/out" || fault "calibration data does not tell its $role"
done
expect 0 '"steps\":\"2\"' "$QUAD" inspect o/samples.safetensors --json
for role in inputs base adapter profile schedule; do
	grep -qF "{\\\"role\\\":\\\"$role\\\",\\\"hash\\\":\\\"xxh3-128:" "$work/out" || fault "samples do not tell their $role"
done
grep -qF '{"role":"calib","hash":"xxh3-128:' o/profile.json || fault "the profile does not tell its calibration data"
grep -qF '"role": "profile"' "o/x y/manifest.json" || fault "the manifest does not tell its profile"

# another seed is told, and one more adapter does not change what the graph was made from
expect 0 "" "$QUAD" run --base m --inputs data.safetensors --steps 2 --seed 7 -o o/other.safetensors
expect 0 '"seed\":\"7\"' "$QUAD" inspect o/other.safetensors --json
expect 0 "" "$QUAD" export --base m --profile o/profile.json --adapter b=a.safetensors --batch 4 --tokens 8 -o o/later
expect 0 "" "$QUAD" export --adapter-only --base m --profile o/profile.json --adapter c=a.safetensors -o o/later
expect 0 "" "$QUAD" export --base m --profile o/profile.json --adapter b=a.safetensors --adapter c=a.safetensors --batch 4 --tokens 8 -o o/both
diff -r o/later o/both >&2 || fault "an adapter added later gives another export"
finish
