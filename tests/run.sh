#!/bin/bash
# Runs tests and ends in one line, "N passed, N failed, N skipped"; exits 1 when any failed.
#
#   tests/run.sh --build DIR PROGRAM|SCRIPT.sh|CASES ...
#
# A program is a cmocka one, whose cases are counted from its TAP output (a crash, or fewer cases than announced, is one more failure),
# or a fuzz target (fuzz_NAME), which replays tests/fuzz/corpus/NAME and counts as one case. A script is one case: exit 0 passed, 77
# skipped, else failed; every line "# SKIP REASON" that it says is one more skipped. Where SCRIPT.out, .err or .exit lie beside it, its
# output, messages and exit status must equal them (REWRITE=1 writes them anew). QUAD names the program under test. Output is kept in
# DIR/log. CASES is a folder called so with small inputs that were read wrongly once: every script in CASES/cases is one case, or
# the whole is skipped where it is not there.
set -u
root=$(cd "$(dirname "$0")/.." && pwd)
build=$root/build
if [ "${1:-}" = --build ]; then
	build=$(realpath "$2")
	shift 2
fi
export QUAD_ROOT=$root QUAD=$build/quad CMOCKA_MESSAGE_OUTPUT=TAP
# Threads that spin while they wait starve each other where the cores are shared.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
export QUAD_GOLDEN=${QUAD_GOLDEN:-$root/../shared/golden}
# What lies beside the program is not beside the unit tests.
[ -n "${QUAD_ORT_LIB:-}" ] || [ ! -e "$build/ort/libonnxruntime.so.1" ] || export QUAD_ORT_LIB=$build/ort/libonnxruntime.so.1
# libgomp and libtorch keep their pools for the life of the process.
export ASAN_OPTIONS=${ASAN_OPTIONS:-detect_leaks=1} UBSAN_OPTIONS=${UBSAN_OPTIONS:-print_stacktrace=1}
mkdir -p "$build/log"
passed=0 failed=0 skipped=0

note()
{
	printf '%-4s %s\n' "$1" "$2"
}

show()
{
	sed 's/^/     | /' "$1" | grep -vE '^     \| ok [0-9]+ - ' | tail -n 60
}

count()
{
	grep -cE "$2" "$1" || true
}

run_cmocka()
{
	local program=$1 name log status ok bad skip planned
	name=$(basename "$program") log=$build/log/$name.log
	"$program" >"$log" 2>&1
	status=$?
	ok=$(count "$log" '^ok [0-9]+ - ')
	skip=$(count "$log" '^(not )?ok [0-9]+ # SKIP')
	bad=$(count "$log" '^not ok [0-9]+ - ')
	planned=$(sed -n 's/^1\.\.\([0-9]*\)$/\1/p' "$log" | awk '{ n += $1 } END { print n + 0 }')
	if [ $((ok + skip + bad)) -lt "$planned" ] || { [ $status -ne 0 ] && [ "$bad" -eq 0 ]; } || [ "$planned" -eq 0 ]; then
		bad=$((bad + 1))
		echo "exit status $status after $((ok + skip + bad - 1)) of $planned cases" >>"$log"
	fi
	passed=$((passed + ok)) failed=$((failed + bad)) skipped=$((skipped + skip))
	if [ "$bad" -ne 0 ]; then
		note FAIL "$name: $ok passed, $bad failed, $skip skipped"
		show "$log"
	else
		note ok "$name: $ok passed, $skip skipped"
	fi
}

settle()
{
	local name=$1 status=$2 log=$3
	case $status in
	0) passed=$((passed + 1)); note ok "$name" ;;
	77) skipped=$((skipped + 1)); note skip "$name: $(tail -n 1 "$log")" ;;
	*) failed=$((failed + 1)); note FAIL "$name (exit $status)"; show "$log" ;;
	esac
}

run_fuzz()
{
	local program=$1 name log corpus status
	name=$(basename "$program") log=$build/log/$name.log
	corpus=$root/tests/fuzz/corpus/${name#fuzz_}
	# without files the program runs all the same, and fails
	find "$corpus" -type f -print0 2>/dev/null | sort -z | xargs -0 "$program" >"$log" 2>&1
	status=$?
	settle "$name" $status "$log"
}

# Compares (or, with REWRITE=1, writes) what a golden script gave: stdout, stderr, exit status.
golden()
{
	local stem=$1 log=$2 status=$3 kind
	for kind in out err exit; do
		[ -e "$stem.$kind" ] || continue
		[ "${REWRITE:-0}" = 1 ] && cp "$log.$kind" "$stem.$kind"
		diff -u "$stem.$kind" "$log.$kind" >>"$log" || return 1
	done
	[ -e "$stem.exit" ] || return "$status"
}

run_script()
{
	local script=$1 name log status
	name=${script#"$root"/} log=$build/log/$(echo "${script#"$root"/}" | tr / _).log
	(cd "$root" && "$script") >"$log.out" 2>"$log.err"
	status=$?
	echo $status >"$log.exit"
	cat "$log.out" "$log.err" >"$log"
	if [ $status -ne 77 ]; then
		golden "${script%.sh}" "$log" $status
		status=$?
	fi
	settle "$name" $status "$log"
	skipped=$((skipped + $(count "$log" '^# SKIP ')))
	sed -n 's/^# SKIP /     skipped: /p' "$log"
}

run_cases()
{
	local folder=$1 script name log
	log=$build/log/cases.log
	if [ ! -d "$folder/cases" ] || ! command -v python3 >/dev/null; then
		echo "the folder of cases or a Python to run them is not there" >"$log"
		settle cases 77 "$log"
		return
	fi
	for script in "$folder"/cases/*.sh; do
		name=$(basename "$script" .sh) log=$build/log/case_$(basename "$script" .sh).log
		(cd "$root" && GOLDEN=$QUAD_GOLDEN bash "$script") >"$log" 2>&1
		settle "case $name" $? "$log"
	done
}

for test in "$@"; do
	case $test in
	*/cases) run_cases "$test" ;;
	*.sh) run_script "$(realpath "$test")" ;;
	*/fuzz_*) run_fuzz "$test" ;;
	*) run_cmocka "$test" ;;
	esac
done
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ]
