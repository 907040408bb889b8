#!/bin/bash
# quad olss: a sampler fitted to the example's own runs beats as many plain steps on samples it has not seen, and serves only the model
# and guidance it was made for.
. "$(dirname "$0")/check.bash"
example=$root/scripts/example
needs_scenes
cd "$work" || exit 1
mkdir o
expect 0 "" "$scenes" --task sketch --count 2 --seed 5 -o fit.safetensors
expect 0 "" "$scenes" --task sketch --count 2 --seed 6 -o held.safetensors
adapter=(--adapter sketch="$example/adapters/sketch.safetensors")
olss=("$QUAD" olss --base "$example/model" "${adapter[@]}" --inputs fit.safetensors --reference-steps 16)
run=("$QUAD" run --base "$example/model" "${adapter[@]}" --inputs held.safetensors --seed 3)

expect 0 '"steps": 4' "${olss[@]}" --steps 4 --json -o o/s.safetensors
for i in 1 2; do
	expect 0 "" "${olss[@]}" --steps 2 --limit 1 --reference-steps 4 -o o/again$i.safetensors
done
cmp o/again1.safetensors o/again2.safetensors || fault "the same command gives another sampler"
expect 0 "format: quad.olss" "$QUAD" inspect o/s.safetensors
expect 0 '"kind": "sampler"' "$QUAD" inspect o/s.safetensors --json

expect 0 "" "${run[@]}" --scheduler ddim --steps 16 -o o/reference.safetensors
expect 0 "4 olss:o/s.safetensors steps" "${run[@]}" --scheduler olss:o/s.safetensors -o o/olss.safetensors
expect 0 "" "${run[@]}" --scheduler ddim --steps 4 -o o/ddim.safetensors
expect 0 "" "$QUAD" report --task t --reference o/reference.safetensors --column olss=o/olss.safetensors \
	--column ddim=o/ddim.safetensors --pack 2
# | t | 40.3 ± 0.2 | 33.2 ± 0.3 |
awk -F'[|±]' '/^\| t / { found = 1; exit !($3 > $5 + 5) } END { if (!found) exit 1 }' out || fault "olss does not beat ddim by 5 dB: $(cat out)"

# Only for what it was fitted to: the guidance is in the file's metadata.
sed 's/"guidance":"1"/"guidance":"2"/' o/s.safetensors >o/g.safetensors
refused "was fitted for guidance 2, asked for is 1" "${run[@]}" --scheduler olss:o/g.safetensors -o o/x.safetensors
refused "6 steps, 'o/s.safetensors' was fitted for 4" "${run[@]}" --scheduler olss:o/s.safetensors --steps 6 -o o/x.safetensors
expect 0 "" "$QUAD" init --config "$example/unet.json" --seed 8 -o other
refused "was fitted on the model xxh3-128:" "$QUAD" run --base other --inputs held.safetensors --scheduler olss:o/s.safetensors -o o/x.safetensors
refused "is no fitted sampler: metadata 'format' is '', needs 'quad.olss'" "${run[@]}" --scheduler olss:held.safetensors -o o/x.safetensors
refused "none.safetensors" "${run[@]}" --scheduler olss:none.safetensors -o o/x.safetensors
refused "'o/s.safetensors' already exists" "${olss[@]}" --steps 4 -o o/s.safetensors
refused "16 steps are to replace 16: needs fewer" "${olss[@]}" --steps 16 -o o/x.safetensors
refused "has no tensor 'negative_hidden_states'" "${olss[@]}" --guidance 3 -o o/x.safetensors
expect 2 "quad olss: needs --inputs" "$QUAD" olss --base x
expect 2 "--scheduler is 'heun', needs one of ddim, euler, lcm, olss:FILE" "${run[@]}" --scheduler heun
finish
