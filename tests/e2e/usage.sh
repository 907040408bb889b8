#!/bin/bash
# The program's frame: help, version, exit codes of wrong usage.
. "$(dirname "$0")/check.bash"

expect 0 "Usage: quad COMMAND" "$QUAD" --help
[ ! -s "$work/err" ] || fault "help speaks on stderr"
cp "$work/out" "$work/help"
expect 0 "Usage: quad COMMAND" "$QUAD" help
expect 2 "Usage: quad COMMAND" "$QUAD"
[ ! -s "$work/out" ] || fault "usage without a command goes to stdout"
expect 0 "quad " "$QUAD" --version
expect 2 "there is no command 'nonsense'; see 'quad --help'" "$QUAD" nonsense
expect 2 "there is no command 'nonsense'" "$QUAD" help nonsense

# Every command of the table explains itself, in both spellings; its help has every row of its table.
commands=$(sed -n 's/^  \([a-z]*\) .*/\1/p' "$work/help")
[ -n "$commands" ] || fault "help lists no commands"
for command in $commands; do
	expect 0 "Usage: quad $command" "$QUAD" help "$command"
	expect 0 "Usage: quad $command" "$QUAD" "$command" --help
	rows=$(sed -n 's/^\t{ "\([a-z0-9-]*\)", QD_OPT_.*/\1/p' "${QUAD_ROOT:-.}/cmd/$command.c")
	[ -n "$rows" ] || fault "cmd/$command.c has no table"
	for name in $rows quiet verbose; do
		grep -q -- "--$name\b" "$work/out" || fault "help of $command leaves out --$name"
	done
done

# options COMMAND: from its help, a line "NAME VALUE REQUIRED" for each option; VALUE is - for a flag.
options()
{
	"$QUAD" "$1" --help | awk '
		function flush() {
			if (name != "")
				print name, value, text ~ /\(required\)/ ? "yes" : "no"
			name = ""
		}
		/^Examples:/ { exit }
		/^(  -., |      )--/ {
			flush()
			match($0, /--[a-z0-9-]+/)
			name = substr($0, RSTART, RLENGTH)
			value = substr($0, RSTART + RLENGTH)
			value = sub(/^=/, "", value) ? value : "-"
			sub(/ .*/, "", value)
			text = $0
			next
		}
		/^ +/ { text = text $0; next }
		{ flush() }'
}

# Whatever is wrong with a value is wrong usage and told with what is needed; so is what is missing, all of it at once.
for command in $commands; do
	expect 2 "quad $command: " "$QUAD" "$command" --no-such-option
	expect 2 "quad $command: needs " "$QUAD" "$command"
	cp "$work/err" "$work/needs"
	options "$command" >"$work/options"
	while read -r name value required; do
		case $value in
		-)
			[ "$name" = --help ] || [ "$name" = --usage ] || expect 2 "option '$name'" "$QUAD" "$command" "$name=1"
			continue ;;
		[A-Z] | TOL | RANK | DECAY)
			expect 2 "$name is '1x', needs a" "$QUAD" "$command" "$name=1x"
			expect 2 "$name is '-1', needs a" "$QUAD" "$command" "$name=-1" ;;
		*\|FILE | FOLDER* | N\|*) ;;
		*\|*) expect 2 "$name is 'nonsense', needs one of ${value//|/, }" "$QUAD" "$command" "$name=nonsense" ;;
		esac
		expect 2 "quad $command: option '$name' requires an argument" "$QUAD" "$command" "$name"
		[ "$required" = yes ] || continue
		[ "$name" = --output ] && spelled=-o || spelled=$name
		grep -qF -e "$spelled $value" "$work/needs" || fault "$command does not say that it needs $name: $(cat "$work/needs")"
		mapfile -t others < <(awk -v name="$name" '$3 == "yes" && $1 != name { print $1 "=x" }' "$work/options")
		expect 2 "quad $command: needs $spelled $value" "$QUAD" "$command" "${others[@]}"
		grep -q "needs .*," "$work/err" && fault "$command needs more than $name: $(cat "$work/err")"
	done <"$work/options"
done

# Given twice, the later one counts, except in lists.
expect 0 '"dtype": "F16"' "$QUAD" init --arch sdxl --arch tiny --dtype bf16 --dtype f16 --dry-run --json -o "$work/o"
expect 0 '"parameters": ' "$QUAD" init --arch tiny --dry-run --json -o "$work/x" -o "$work/o"
grep -q "$work/o" "$work/out" || fault "the first of two -o counts"
expect 2 "needs one --adapter at most" "$QUAD" eval --base x --inputs y --adapter a --adapter b
expect 2 "one sample has one adapter, 2 given" "$QUAD" run --base x --inputs y --adapter a --adapter b -o z
expect 2 "one adapter is distilled at a time, 2 given" "$QUAD" distill --base x --profile y --adapter a --adapter b --data d -o z

expect 2 "unexpected argument 'z'" "$QUAD" eval --base x --inputs y z
expect 2 "quad inspect: needs a PATH" "$QUAD" inspect
expect 2 "unexpected argument 'b', needs one PATH" "$QUAD" inspect a b
expect 2 "quad init: needs --arch or --config" "$QUAD" init -o "$work/o"
expect 2 "quad init: needs only one of --arch and --config" "$QUAD" init --arch tiny --config x -o "$work/o"
expect 2 "quad run: needs -o PATH, or --check-trace FILE" "$QUAD" run --base x --inputs y
expect 2 "--task NAME comes before" "$QUAD" report --reference x
expect 2 "task a has no --reference" "$QUAD" report --task a
expect 2 "--column x is not NAME=FILE" "$QUAD" report --task a --column x
expect 2 "--threads is '0', needs a whole number from 1" "$QUAD" eval --base x --inputs y --threads 0

# Output that cannot be written is a failure; a closed pipe ends the program like any other.
if [ -w /dev/full ]; then
	"$QUAD" --help >/dev/full 2>"$work/err"
	[ $? -eq 3 ] || fault "a full disk goes unnoticed"
fi
finish
