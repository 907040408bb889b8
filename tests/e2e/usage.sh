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

# Every command of the table explains itself, in both spellings.
commands=$(sed -n 's/^  \([a-z]*\) .*/\1/p' "$work/help")
[ -n "$commands" ] || fault "help lists no commands"
for command in $commands; do
	expect 0 "Usage: quad $command" "$QUAD" help "$command"
	expect 0 "Usage: quad $command" "$QUAD" "$command" --help
	expect 2 "quad $command: " "$QUAD" "$command" --no-such-option
done

expect 2 "quad eval: needs --base" "$QUAD" eval
expect 2 "quad eval: needs --inputs" "$QUAD" eval --base x
expect 2 "--check is 'much', needs a number" "$QUAD" eval --base x --inputs y --check much
expect 2 "--check is '-1', needs a number" "$QUAD" eval --base x --inputs y --check -1
expect 2 "unexpected argument 'z'" "$QUAD" eval --base x --inputs y z
expect 2 "needs one --adapter at most" "$QUAD" eval --base x --inputs y --adapter a --adapter b
expect 2 "--threads is '0', needs a whole number from 1" "$QUAD" eval --base x --inputs y --threads 0
expect 2 "quad inspect: needs a PATH" "$QUAD" inspect
expect 2 "unexpected argument 'b', needs one PATH" "$QUAD" inspect a b
expect 2 "quad init: needs --arch or --config" "$QUAD" init -o "$work/o"
expect 2 "quad init: needs -o" "$QUAD" init --arch tiny
expect 2 "quad init: needs only one of --arch and --config" "$QUAD" init --arch tiny --config x -o "$work/o"
expect 2 "--arch is 'sd9', needs one of sd15, sdxl, tiny" "$QUAD" init --arch sd9 -o "$work/o"
expect 2 "--seed is '1x', needs a whole number" "$QUAD" init --arch tiny --seed 1x -o "$work/o"

# Output that cannot be written is a failure; a closed pipe ends the program like any other.
if [ -w /dev/full ]; then
	"$QUAD" --help >/dev/full 2>"$work/err"
	[ $? -eq 3 ] || fault "a full disk goes unnoticed"
fi
finish
