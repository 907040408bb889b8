#!/bin/bash
# What reaches a terminal: names from files are escaped, wherever they are printed; long work without a terminal shows signs of life.
. "$(dirname "$0")/check.bash"

# silent: nothing that was printed speaks to a terminal: no control character but line breaks, no byte of the file's own escapes
silent()
{
	LC_ALL=C grep -qP '[\x00-\x09\x0b-\x1f\x7f]|\xc2[\x80-\x9f]' "$work/out" "$work/err" && fault "a control character is printed: $1"
	grep -q '^injected' "$work/out" "$work/err" && fault "a name begins a line: $1"
	return 0
}

# safetensors JSON BYTES: a file of that header and so many zeros
safetensors()
{
	local header=$1 n=${#1}
	printf "$(printf '\\x%02x\\x%02x\\0\\0\\0\\0\\0\\0' $((n % 256)) $((n / 256)))"
	printf '%s' "$header"
	head -c "$2" /dev/zero
}
bad='\u001b[31mred\ninjected\u009b2J\u007f'
safetensors "{\"__metadata__\":{\"k$bad\":\"v$bad\"},\"t$bad\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}" 4 >"$work/names.safetensors"
expect 0 '\x1b[31mred\ninjected' "$QUAD" inspect "$work/names.safetensors"
silent "inspect"
expect 0 '"name": "t\u001B[31mred\ninjected' "$QUAD" inspect "$work/names.safetensors" --json
silent "inspect --json"
grep -qF '\u009B2J\u007F' "$work/out" || fault "JSON has raw control characters"
file=$work/$(printf 'a\033[31m\ninjected.safetensors')
cp "$work/names.safetensors" "$file"
expect 0 '\x1b[31m\ninjected.safetensors' "$QUAD" inspect "$file"
silent "a file's name"
expect 3 '\x1b[31m\ninjected' "$QUAD" inspect "$file.none"
silent "a missing file"
expect 2 'x\x1b[1m' "$QUAD" eval --base x --inputs y --threads "$(printf 'x\033[1m')"
silent "an option's value"
expect 2 'x\x1b[1m' "$QUAD" "$(printf 'x\033[1m')"
silent "a command"

# Long work without a terminal shows signs of life, a line each, but not with -q.
needs_scenes
small_config "$work/config.json"
expect 0 "" "$QUAD" init --config "$work/config.json" -o "$work/base"
expect 0 "" "$scenes" --task removal --count 4 --seed 1 -o "$work/data"
train=("$QUAD" train --base "$work/base" --data "$work/data" --lora 2 --batch 1 --steps 8 --threads 1)
expect 0 "" env QUAD_PROGRESS_SECONDS=0 "${train[@]}" -o "$work/a.safetensors"
grep -qE '^quad: [a-z ]+  [0-9]+/8  [0-9.e+]+/s' "$work/err" || fault "no progress without a terminal: $(cat "$work/err")"
silent "progress"
expect 0 "" env QUAD_PROGRESS_SECONDS=0 "${train[@]}" -q -o "$work/b.safetensors"
[ -s "$work/err" ] && fault "-q is not quiet: $(cat "$work/err")"
expect 0 "" "${train[@]}" -o "$work/c.safetensors"
[ -s "$work/err" ] && fault "progress of short work: $(cat "$work/err")"

# What is printed goes through the one function that escapes.
grep -n '[^a-z_f]printf(' "$root"/cmd/*.c | grep -v '/print\.c:' && fault "printf, needs qd_print"
finish
