#!/bin/bash
# What quad reads and writes, against the programs it comes from and goes to: torch, diffusers, transformers, peft, onnx, ONNX Runtime.
#
#   PYTHON=python3 QUAD=build/quad tests/clients/run.sh [NAME...]
#
# Runs every script of this folder, or those named; ends in one line, "N passed, N failed, N skipped", and exits 1 when anything failed.
# A script whose libraries cannot be imported counts as one skipped.
set -u
cd "$(dirname "$0")/../.." || exit 3
python=${PYTHON:-python3}
quad=$(realpath "${QUAD:-build/quad}")
golden=${QUAD_GOLDEN:-../shared/golden}
log=$(mktemp)
trap 'rm -f "$log"' EXIT
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
passed=0 failed=0 skipped=0

run()
{
	local name=$1 status line
	shift
	"$python" "tests/clients/$name.py" --quad "$quad" "$@" >"$log" 2>&1
	status=$?
	if [ $status -eq 77 ]; then
		echo "skip $name: $(tail -n 1 "$log")"
		skipped=$((skipped + 1))
		return
	fi
	line=$(grep -E '^[0-9]+ passed, [0-9]+ failed' "$log" | tail -n 1)
	read -r p _ f _ s _ <<<"${line:-0 passed, 0 failed}"
	passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + ${s:-0}))
	# a script that dies, or that says nothing, has failed
	if [ -z "$line" ] || { [ $status -ne 0 ] && [ "$f" -eq 0 ]; }; then
		failed=$((failed + 1))
	fi
	if [ $status -ne 0 ] || [ -z "$line" ]; then
		echo "FAIL $name (exit $status)"
		sed 's/^/     | /' "$log" | tail -n 60
	else
		echo "ok   $name: $line"
	fi
}

[ $# -gt 0 ] || set -- adapters components onnx_exports onnxruntime_adapters tokenizer
for name in "$@"; do
	case $name in
	tokenizer)
		if [ -d "$golden/text/tokenizer" ]; then
			run tokenizer --tokenizer "$golden/text/tokenizer"
		else
			echo "skip tokenizer: no vocabulary to compare with"
			skipped=$((skipped + 1))
		fi
		;;
	*) run "$name" ;;
	esac
done
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ]
